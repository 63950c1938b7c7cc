"""Imported by the fork server: the preparation itself."""

import prepared

prepared._prepare()
