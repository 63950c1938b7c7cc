#!/usr/bin/env python3
"""How long until something happens: the command line, the package, and the first run of the development pack against later ones.

  cold_start.py [--merchants 10000] [--repeat 5]

`first` is a run whose cache folder (SEG1A_CACHE_DIR) is empty, so that every kernel is compiled; `later` runs find them there. Both with notebooks, as `seg1a run`
does by itself, and without. The pack is built beforehand. Short commands: median of --repeat; runs: once, later ones twice (the faster counts).
"""
import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from measure import Table, Usage, benchmark, measured, say, seg1a

SHORT = {"python alone": ["-c", "pass"], "import seg1a": ["-c", "import seg1a"], "seg1a --version": ["-m", "seg1a", "--version"], "seg1a run --help": ["-m", "seg1a", "run", "--help"],
         "import the pipeline and all states": ["-c", "import seg1a.operations.pipeline, seg1a.states.s0_foundations, seg1a.states.s1_hurdle, seg1a.states.s2_nb_outlets, seg1a.states.s3_crossborder, seg1a.states.s4_ztp"]}


def median_usage(words: list[str], repeat: int) -> dict[str, float]:
    """Medians of wall and CPU seconds; one call before to have the files in memory."""
    used = [measured([sys.executable, *words])[0] for _ in range(repeat + 1)][1:]
    return {"wall": statistics.median(one.wall for one in used), "cpu": statistics.median(one.cpu for one in used)}


def run_once(pack: Path, folder: Path, cache: Path, flags: tuple[str, ...]) -> tuple[Usage, bool]:
    """A run, and whether it said on stderr that kernels are being compiled."""
    used, _, progress = seg1a("run", "--pack", pack, "--output-dir", folder, "--seed", "1", *flags, SEG1A_CACHE_DIR=str(cache))
    return used, "compiling" in progress


def first_and_later(pack: Path, folder: Path, flags: tuple[str, ...]) -> dict:
    """A run on an empty cache, then two on what it left."""
    with tempfile.TemporaryDirectory() as cache:
        first, announced = run_once(pack, folder, Path(cache), flags)
        later = [run_once(pack, folder, Path(cache), flags) for _ in range(2)]
    fastest = min((used for used, _ in later), key=lambda used: used.wall)
    return {"first": first, "later": fastest, "announced": announced, "announced_later": any(said for _, said in later)}


def measure(arguments: argparse.Namespace) -> dict:
    say("cold start: short commands")
    found = {"short": {name: median_usage(words, arguments.repeat) for name, words in SHORT.items()}, "runs": {}}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        seg1a("pack", "build", folder / "pack", "--merchants", arguments.merchants, "--quiet")
        for name, flags in (("notebooks", ()), ("in process", ("--no-notebooks",))):
            say(f"cold start: first and later runs, {name}")
            found["runs"][name] = first_and_later(folder / "pack", folder / "out", flags)
    return found


def seconds(used: object) -> tuple[float, float]:
    used = used if isinstance(used, dict) else vars(used)
    return used["wall"], used["cpu"]


def tables(results: dict) -> list[Table]:
    rows = []
    for name, run in results["runs"].items():
        for when in ("first", "later"):
            said = run["announced" if when == "first" else "announced_later"]
            rows.append((f"{when} run, {name}", *seconds(run[when]), seconds(run[when])[0] / seconds(run["later"])[0], "yes" if said else "no"))
    return [Table("Short commands", ("command", "wall s", "CPU s"), [(name, *seconds(used)) for name, used in results["short"].items()]),
            Table(f"Runs of {results['flags']['merchants']:,} merchants", ("run", "wall s", "CPU s", "wall, of the later run", "compiling announced"), rows)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--merchants", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=5)
    benchmark(parser, measure, tables)
