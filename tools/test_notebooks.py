#!/usr/bin/env python3
"""Run every notebook below the given folders as a test, in worker processes; exit 1 when a cell fails.

  test_notebooks.py nbs [--workers 2]

The run notebooks (nbs/runs) are left out: `seg1a run` executes them with real parameters.
"""
import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from strip_notebooks import notebooks_below  # noqa: E402


def run_notebook(path: Path) -> tuple[Path, int, str, float]:
    """Test one notebook in a process of its own, so that none can lean on what another left behind."""
    started = time.monotonic()
    program = "import sys; from nbdev.test import nbdev_test; nbdev_test.__wrapped__(path=sys.argv[1], n_workers=0, do_print=True)"
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"MPLBACKEND": "agg"})
    return path, done.returncode, done.stdout + done.stderr, time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    notebooks = [path for path in notebooks_below(args.paths) if path.parent.name != "runs"]
    failed = 0
    with ThreadPoolExecutor(args.workers) as pool:
        for path, status, output, seconds in pool.map(run_notebook, notebooks):
            print(f"{'ok  ' if status == 0 else 'FAIL'} {path} ({seconds:.1f} s)", flush=True)
            if status:
                failed += 1
                print(output, flush=True)
    print(f"notebooks: {len(notebooks) - failed} passed, {failed} failed", flush=True)
    return 1 if failed or not notebooks else 0


if __name__ == "__main__":
    sys.exit(main())
