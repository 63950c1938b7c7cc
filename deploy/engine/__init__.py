"""The name under which operators know the engine; the code is in the package `seg1a`."""
