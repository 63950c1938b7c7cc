"""Entry points of the engine."""
