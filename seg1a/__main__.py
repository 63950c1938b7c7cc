"""`python -m seg1a` is the console script `seg1a`."""

import sys

from seg1a.operations.cli import main

sys.exit(main())
