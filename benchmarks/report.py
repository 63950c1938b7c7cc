#!/usr/bin/env python3
"""Run the benchmarks and write the page of results: every figure of it is made here.

  report.py [--merchants 10000,100000,1000000] [--output benchmarks/RESULTS.md] [--results DIR] [--only end_to_end,kernels] [--reuse]

Each benchmark is a command of its own with --json; its results are kept as DIR/<name>.json. With --reuse, results that are there are taken instead of measured, so
that one benchmark can be run again and the page be written anew: `--reuse --only kernels` measures the kernels and takes the rest as it is.
"""
import argparse
import importlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

from measure import say

HERE = Path(__file__).resolve().parent
TITLES = {"end_to_end": "Whole runs", "cold_start": "Cold start", "limits": "What the machine allows", "kernels": "Small steps", "alternatives": "Instead of the engine's parts"}


def flags_of(name: str, arguments: argparse.Namespace) -> list[str]:
    """The flags of one benchmark."""
    if name == "end_to_end":
        flags = ["--merchants", arguments.merchants, "--repeat", str(arguments.repeat)]
        flags += ["--direct-io"] if arguments.direct_io else []
        return flags + (["--packs", arguments.packs] if arguments.packs else []) + (["--cases", arguments.cases] if arguments.cases else [])
    return ["--repeat", str(arguments.repeat)] if name == "limits" else []


def result_of(name: str, arguments: argparse.Namespace, folder: Path, fresh: bool) -> dict | None:
    """The results of one benchmark, measured now or kept; None when there are none."""
    place = folder / f"{name}.json"
    if fresh:
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", *flags_of(name, arguments)]
        say(f"report: {shlex.join(['python', f'benchmarks/{name}.py', *command[3:]])}")
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"report: {name} ended with status {done.returncode}")
        place.write_text(done.stdout)
    return json.loads(place.read_text()) if place.exists() else None


def command_line(name: str, flags: dict) -> str:
    """How the results were made, as one would type it; folders are of no interest."""
    words = [f"python benchmarks/{name}.py"]
    for key, value in flags.items():
        if key not in ("folder", "packs"):
            words.append("--" + key.replace("_", "-"))
            words += [] if value is True else [",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return " ".join(words)


def page(results: dict[str, dict]) -> str:
    """The page: the machine, then the tables of each benchmark under the command that made them."""
    machines = list(dict.fromkeys(json.dumps(result["machine"], sort_keys=True) for result in results.values()))
    about = ["; ".join(f"{facts['cores']} cores of {facts['cpu']}, {facts['memory_gib']} GiB, Python {facts['python']}" for facts in map(json.loads, machines))]
    parts = ["# Measured", f"Made by `python benchmarks/report.py`; do not edit. Machine: {about[0]}. How to read each table: `benchmarks/README.md`. Ratios hold better than seconds."]
    for name, result in results.items():
        tables = importlib.import_module(name).tables(result)
        parts += [f"## {TITLES[name]}", f"`{command_line(name, result['flags'])}`", *map(str, tables)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merchants", default="10000,100000,1000000", help="sizes of the whole runs (default 10000,100000,1000000)")
    parser.add_argument("--repeat", type=int, default=1, help="rounds of the whole runs and of the limits (default 1)")
    parser.add_argument("--direct-io", action="store_true", help="whole runs past the page cache")
    parser.add_argument("--cases", help="cases of the whole runs (default: all)")
    parser.add_argument("--packs", help="keep packs here between runs")
    parser.add_argument("--only", default=",".join(TITLES), help=f"benchmarks to run (default {','.join(TITLES)})")
    parser.add_argument("--reuse", action="store_true", help="take results of the others from --results; without --only, of all of them")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the JSON results (default benchmarks/results)")
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md", help="the page (default benchmarks/RESULTS.md); - for stdout")
    arguments = parser.parse_args()
    only = arguments.only.split(",")
    if set(only) - set(TITLES):
        parser.error(f"benchmarks are {','.join(TITLES)}")
    arguments.results.mkdir(parents=True, exist_ok=True)
    fresh = [] if arguments.reuse and len(only) == len(TITLES) else only
    wanted = TITLES if arguments.reuse else only
    results = {name: result for name in wanted if (result := result_of(name, arguments, arguments.results, name in fresh)) is not None}
    text = page(results)
    print(text, end="") if str(arguments.output) == "-" else arguments.output.write_text(text)


if __name__ == "__main__":
    main()
