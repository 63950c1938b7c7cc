#!/usr/bin/env python3
"""Run every notebook below the given folders as a test, in worker processes; exit 1 when a cell fails.

  test_notebooks.py nbs [--workers 2]

The run notebooks (nbs/runs) are left out: `seg1a run` executes them with real parameters.
"""
import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from strip_notebooks import notebooks_below  # noqa: E402

# What nearly every notebook imports, none of which starts a thread: imported once, in a process that each test is a copy of.
PREPARED = ["nbdev.test", "execnb.nbio", "IPython.core.interactiveshell", "numpy", "numba", "pandas", "pyarrow.parquet", "scipy.stats", "matplotlib.pyplot", "ruamel.yaml"]
TIMEOUT = 300


def run_cells(path: str, output: str) -> None:
    """In the copy: run the cells, everything printed going to the file `output`; the exit status says how it went."""
    handle = os.open(output, os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(handle, stream)
    from nbdev.test import nbdev_test

    nbdev_test.__wrapped__(path=path, n_workers=0, do_print=True)


def run_notebook(path: Path) -> tuple[Path, int, str, float]:
    """Test one notebook in a process of its own, so that none can lean on what another left behind."""
    started = time.monotonic()
    with tempfile.NamedTemporaryFile("r", errors="replace") as output:
        process = multiprocessing.Process(target=run_cells, args=(str(path), output.name))
        process.start()
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
            process.join()
        return path, process.exitcode, output.read(), time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    os.environ["MPLBACKEND"] = "agg"
    multiprocessing.set_start_method("forkserver")
    multiprocessing.set_forkserver_preload(PREPARED)
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
