"""`python -m engine.cli.segment1a FLAGS`: the same as `seg1a run FLAGS`."""

import sys

from seg1a.operations.cli import main as seg1a


def main(flags: list[str] | None = None) -> int:
    """Run S0 to S4 with the flags of `seg1a run` (default: those of the command line); returns the exit status."""
    return seg1a(["run", *(sys.argv[1:] if flags is None else flags)])


if __name__ == "__main__":
    sys.exit(main())
