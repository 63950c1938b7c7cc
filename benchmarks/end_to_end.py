#!/usr/bin/env python3
"""Whole runs: time, memory and bytes, producing and proving apart.

  end_to_end.py [--merchants 1000000] [--workers 2]

Builds a pack, runs it without validators (produce), asks every state for its proof from disk (validate), and runs it again as an
operator does, with validators and notebooks (whole). Each is a process of its own; peak memory is that of its largest process.
"""
import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def timed(*arguments: str) -> tuple[float, str]:
    """Wall seconds and last stdout line of `seg1a …`."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "seg1a", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"seg1a {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
    return time.monotonic() - started, done.stdout.splitlines()[-1]


def peak_mib() -> float:
    """Largest resident set of any child so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merchants", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    n, how = arguments.merchants, ("--workers", str(arguments.workers), "--quiet", "--seed", "7")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        build, _ = timed("pack", "build", place / "pack", "--merchants", n)
        timed("run", "--pack", place / "pack", "--output-dir", place / "warm", "--no-notebooks", *how)  # compiles kernels, warms the page cache
        produce, line = timed("run", "--pack", place / "pack", "--output-dir", place / "produce", "--no-notebooks", *(f"--no-validate-s{s}" for s in range(5)), *how)
        root = Path(line.partition(" ")[2])
        validate, _ = timed("validate", root, "--workers", str(arguments.workers))
        peak = peak_mib()
        whole, line = timed("run", "--pack", place / "pack", "--output-dir", place / "whole", *how)
        summary = json.loads((Path(line.partition(" ")[2]) / "run_summary.json").read_text())
        verify, _ = timed("verify", line.partition(" ")[2])
        size = sum(path.stat().st_size for path in Path(line.partition(" ")[2]).rglob("*") if path.is_file())
    print(f"{n:,} merchants, {arguments.workers} workers, {size / n:,.0f} bytes a merchant")
    for name, seconds in (("pack build", build), ("produce (no validators, no notebooks)", produce), ("validate from disk", validate), ("whole run: validators and notebooks on", whole), ("verify the seal", verify)):
        print(f"{name:42s} {seconds:7.1f} s  {n / seconds:12,.0f} merchants/s")
    print("  of the whole run:", ", ".join(f"{state} {seconds:.1f} s" for state, seconds in summary["run"]["seconds"].items()))
    print(f"validate / produce {validate / produce:.2f}; peak memory {peak:,.0f} MiB in one process, {peak_mib():,.0f} MiB with notebooks")


if __name__ == "__main__":
    main()
