#!/usr/bin/env python3
"""How much damage the readers, the loaders and the predicate parser have withstood, in one run.

  fuzz.py [--executions 20000] [--seed 1] [--target NAME]

The targets and their references are those of the tests (tests/fuzz_targets.py, tests/test_reader_fuzz.py); an execution is one damaged input. Cheap targets get several
times --executions, slow ones a part. Accepted: inputs that damage left legal. A finding is a crash, more than five seconds of silence, or an answer that the
reference contradicts; each is printed, and the exit status is then 1.
"""
import argparse
import sys
from pathlib import Path

from measure import Table, benchmark, say

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


def measure(arguments: argparse.Namespace) -> dict:
    """Every campaign in turn."""
    from fuzz_support import fuzzed
    from fuzz_targets import share, targets
    from test_reader_fuzz import event_rows

    tallies = []
    for target in [*targets(), event_rows()]:
        if arguments.target in target.name:
            tallies.append(fuzzed(target, arguments.seed, max(int(arguments.executions * share(target.name)), 1)))
            say(str(tallies[-1]))
    return {"tallies": tallies}


def tables(results: dict) -> list:
    """One row a target, then the findings."""
    tallies = results["tallies"]
    rows = [[t.target, t.executions, t.accepted, len(t.findings), t.seconds, t.slowest * 1e3] for t in tallies]
    rows.append(["all", sum(t.executions for t in tallies), sum(t.accepted for t in tallies), sum(len(t.findings) for t in tallies), sum(t.seconds for t in tallies), max(t.slowest for t in tallies) * 1e3])
    return [Table("Fuzzing", ["target", "executions", "accepted", "findings", "CPU s", "slowest ms"], rows), *[f"{t.target}: {what}: {made!r:.400}" for t in tallies for what, made in t.findings[:5]]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=20_000, metavar="N", help="damaged inputs a target, before its share (default 20000)")
    parser.add_argument("--seed", type=int, default=1, metavar="INT", help="what the damage follows from (default 1)")
    parser.add_argument("--target", default="", metavar="NAME", help="only targets whose name holds this")
    found: list = []
    benchmark(parser, lambda arguments: found.append(measure(arguments)) or found[0], tables)
    sys.exit(any(tally.findings for tally in found[0]["tallies"]))
