#!/usr/bin/env python3
"""Whole runs, from the pack to the seal: time, CPU, memory, bytes, each state, beside what the machine allows for the same bytes.

  end_to_end.py [--merchants 10000,100000,1000000] [--cases produce,validate,whole] [--folder DIR] [--packs DIR]

Cases, each a command of its own, `--workers` threads where nothing else is said:
  produce     no validators, no notebooks            validate    every state's proof, from that run's files
  whole       validators and notebooks, as operators run it       verify      every digest under the seal of `whole`
  in-process  validators, no notebooks               one-worker  the same with one thread
  direct-io   in-process with --direct-io (left out where `seg1a run` has no such flag)

Kernels are compiled before anything is timed. Wall and CPU seconds are those of the command with all its processes. Peak memory: of the largest process
(the kernel's count), and of the command with its children together (sampled, shared pages counted once for each process). `states` is the time that the states
themselves took, without start and notebooks, as the run's telemetry gives it (`state_seconds`); from a version that does not, the time around each state.
The disk holds one run at a time. After each size `limits.py` copies, hashes and writes as many bytes as the run has. Exponents are fitted over the sizes from 100 000 on, over all when those are
fewer than two: 1 is proportional to size.
"""
import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from measure import Table, benchmark, exponent, measured, run_root, say, seg1a, tree_size

CASES = ("produce", "validate", "whole", "verify", "in-process", "one-worker", "direct-io")
UNPROVED = [f"--no-validate-s{state}" for state in range(5)]
STATES = ("S0", "S1", "S2", "S3", "S4")


def run_flags(case: str, workers: int, direct: bool) -> list[str]:
    """What a case adds to `seg1a run`."""
    flags = ["--workers", str(1 if case == "one-worker" else workers)]
    flags += [] if case == "whole" else ["--no-notebooks"]
    flags += UNPROVED if case == "produce" else []
    return flags + (["--direct-io"] if case == "direct-io" or direct else [])


def state_seconds(root: Path) -> tuple[dict[str, float], bool]:
    """Seconds by state of a run, and whether they are the states' own."""
    stamp = json.loads((root / "logs" / "telemetry" / "execution_stamp.json").read_text())
    own = stamp.get("state_seconds")
    seconds = own or json.loads((root / "run_summary.json").read_text())["run"]["seconds"]
    total = {state: sum(value.values()) if isinstance(value, dict) else value for state, value in seconds.items()}
    return {state: float(total[state]) for state in STATES if state in total}, own is not None


def run_case(case: str, pack: Path, folder: Path, workers: int, direct: bool) -> tuple[dict, Path]:
    """One `seg1a run`: what it used, by state too, and its root."""
    used, out, _ = seg1a("run", "--pack", pack, "--output-dir", folder, "--quiet", "--seed", "7", *run_flags(case, workers, direct))
    root = run_root(out)
    states, own = state_seconds(root)
    return {"usage": used, "states": states, "states_own": own, "bytes": tree_size(root)}, root


READS = {"validate": "produce", "verify": "whole"}  # a case that judges what another has left


def run_cases(cases: list[str], pack: Path, folder: Path, workers: int, direct: bool) -> dict[str, dict]:
    """Every case once; what a case leaves is removed as soon as nobody reads it any more, so that the disk never holds two runs."""
    results, root = {}, None
    for case in cases:
        say(f"end to end: {pack.name}: {case}")
        if case in READS:
            extra = ("--workers", workers, "--pack", pack, *["--direct-io"] * direct) if case == "validate" else ()
            results[case] = {"usage": seg1a(case, root, *extra)[0]}
        else:
            results[case], root = run_case(case, pack, folder / case, workers, direct)
        written = READS.get(case, case)
        if not any(READS.get(later) == written for later in cases[cases.index(case) + 1:]):
            shutil.rmtree(folder / written)
    return results


def best_of(runs: list[dict[str, dict]]) -> dict[str, dict]:
    """Of each case the run with the least wall time."""
    return {case: min((run[case] for run in runs), key=lambda result: result["usage"].wall) for case in runs[0]}


def built_pack(merchants: int, packs: Path) -> Path:
    """A pack of this size in the folder, made when it is not there yet."""
    pack = packs / f"pack-{merchants}"
    if not pack.exists():
        say(f"end to end: building a pack of {merchants:,} merchants")
        seg1a("pack", "build", pack, "--merchants", merchants, "--quiet")
    return pack


def measure_size(merchants: int, arguments: argparse.Namespace, cases: list[str], packs: Path, folder: Path) -> dict:
    """All cases at one size, and the limits for as many bytes."""
    pack = built_pack(merchants, packs)
    found = best_of([run_cases(cases, pack, folder, arguments.workers, arguments.direct_io) for _ in range(arguments.repeat)])
    size = max(result.get("bytes", 0) for result in found.values())
    command = [sys.executable, Path(__file__).with_name("limits.py"), "--json", "--bytes", size, "--at-most", arguments.limit_bytes, "--folder", folder]
    say(f"end to end: the limits for {size / 1e9:.2f} GB")
    limits = json.loads(measured(command)[1])
    return {"merchants": merchants, "cases": found, "bytes": size, "limits": limits, "ratios": ratios(merchants, found, limits)}


def ratios(merchants: int, cases: dict[str, dict], limits: dict) -> dict[str, float]:
    """The figures that stand for the others: against the limits, against one worker, a second."""
    wall = {case: result["usage"].wall for case, result in cases.items()}
    states = {case: sum(result["states"].values()) for case, result in cases.items() if "states" in result}
    found = {}
    for name, seconds in (("plain", limits["plain"]), ("fastest", limits["fastest"])):
        if {"produce", "validate"} <= wall.keys():
            found[f"(produce + validate) / {name}"] = (wall["produce"] + wall["validate"]) / seconds
        for case in ("whole", "in-process"):
            if case in states:
                found[f"{case}, states' time / {name}"] = states[case] / seconds
                found[f"{case} / {name}"] = wall[case] / seconds
    for case in ("whole", "in-process"):
        if case in states:
            found[f"{case}, merchants/s of the states' time"] = merchants / states[case]
            found[f"{case}, merchants/s"] = merchants / wall[case]
    if {"one-worker", "in-process"} <= states.keys():
        found["one worker / workers, states' time"] = states["one-worker"] / states["in-process"]
    if {"direct-io", "in-process"} <= states.keys():
        found["buffered / direct I/O, states' time"] = states["in-process"] / states["direct-io"]
    return found


def spent(result: dict, what: str) -> float:
    """A figure of a case's usage, fresh or read from JSON."""
    used = result["usage"]
    return used[what] if isinstance(used, dict) else getattr(used, what)


def fitted(sizes: list[dict]) -> dict[str, float | None]:
    """Exponents of time against size, by case: wall, CPU and the states' time."""
    chosen = [size for size in sizes if size["merchants"] >= 100_000]
    chosen = chosen if len(chosen) >= 2 else sizes
    found = {}
    for case in [case for case in CASES if all(case in size["cases"] for size in chosen)]:
        n, results = [size["merchants"] for size in chosen], [size["cases"][case] for size in chosen]
        found[f"{case}, wall"] = exponent(n, [spent(result, "wall") for result in results])
        found[f"{case}, CPU"] = exponent(n, [spent(result, "cpu") for result in results])
        if "states" in results[0]:
            found[f"{case}, states"] = exponent(n, [sum(result["states"].values()) for result in results])
    return found


def cases_to_run(asked: str) -> list[str]:
    """The cases in their order, with those that others read; `direct-io` only where there is the flag."""
    cases = set(asked.split(","))
    if cases - set(CASES):
        sys.exit(f"cases are {','.join(CASES)}")
    cases |= ({"produce"} if "validate" in cases else set()) | ({"whole"} if "verify" in cases else set())
    if "direct-io" in cases and "--direct-io" not in seg1a("run", "--help")[1]:
        say("end to end: `seg1a run` has no --direct-io: that case is left out")
        cases.discard("direct-io")
    return [case for case in CASES if case in cases]


def measure(arguments: argparse.Namespace) -> dict:
    """All sizes, ascending."""
    cases = cases_to_run(arguments.cases)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        folder = Path(place)
        packs = Path(arguments.packs or folder / "packs")
        packs.mkdir(parents=True, exist_ok=True)
        say("end to end: compiling kernels and warming up")
        for flags in ([], ["--no-notebooks"]):
            seg1a("run", "--pack", built_pack(2_000, packs), "--output-dir", folder / "warm", "--seed", "7", *flags)
        sizes = [measure_size(merchants, arguments, cases, packs, folder) for merchants in sorted(arguments.merchants)]
    return {"cases": cases, "sizes": sizes, "exponents": fitted(sizes)}


def case_rows(size: dict) -> list[tuple]:
    rows = []
    for case, result in size["cases"].items():
        used = result["usage"] if isinstance(result["usage"], dict) else vars(result["usage"])
        states = sum(result["states"].values()) if "states" in result else None
        rows.append((case, used["wall"], used["cpu"], states, size["merchants"] / used["wall"], round(used["process_mib"]), round(used["tree_mib"]), result.get("bytes")))
    return rows


def size_tables(size: dict, workers: int) -> list[Table]:
    """The cases of one size, and their states."""
    n, runs = size["merchants"], {case: result for case, result in size["cases"].items() if "states" in result}
    own = "the states' own time" if all(result["states_own"] for result in runs.values()) else "the time around each state"
    header = ("case", "wall s", "CPU s", "states s", "merchants/s", "peak MiB, a process", "peak MiB, all", "bytes")
    states = [(case, *(result["states"].get(state) for state in STATES)) for case, result in runs.items()]
    return [Table(f"{n:,} merchants, {workers} workers, {size['bytes'] / n:,.0f} bytes a merchant", header, case_rows(size)),
            Table(f"{n:,} merchants: seconds by state ({own})", ("case", *STATES), states)]


def side_by_side(title: str, what: str, sizes: list[dict], columns: list[dict]) -> Table:
    """One row for each name, one column for each size."""
    names = list(dict.fromkeys(name for column in columns for name in column))
    return Table(title, (what, *(f"{size['merchants']:,}" for size in sizes)), [(name, *(column.get(name) for column in columns)) for name in names])


def tables(results: dict) -> list[Table]:
    """For each size its cases and states; then limits and ratios of all sizes side by side, and the exponents."""
    sizes = results["sizes"]
    found = [table for size in sizes for table in size_tables(size, results["flags"]["workers"])]
    limits = [{name: seconds for name, seconds in size["limits"]["seconds"].items() if not name.startswith("Parquet")} for size in sizes]
    found.append(side_by_side("Seconds for the same bytes at the machine's limits", "limit", sizes, limits))
    found.append(side_by_side("Ratios (plain: through the page cache with fsync, and SHA-256, on one thread; fastest: the best of all ways to write and hash)", "ratio", sizes, [size["ratios"] for size in sizes]))
    exponents = [(name, value) for name, value in results["exponents"].items() if value is not None]
    return found + ([Table("Exponent of time against size", ("case", "exponent"), exponents)] if exponents else [])


def sizes(text: str) -> list[int]:
    return [int(float(part)) for part in text.split(",")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--merchants", type=sizes, default=[10_000, 100_000, 1_000_000], help="sizes, with commas (default 10000,100000,1000000)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cases", default=",".join(CASES), help=f"with commas (default {','.join(CASES)})")
    parser.add_argument("--direct-io", action="store_true", help="all runs and validations past the page cache, not the case direct-io alone")
    parser.add_argument("--repeat", type=int, default=1, help="rounds of all cases; the fastest of each counts (default 1)")
    parser.add_argument("--limit-bytes", type=lambda text: int(float(text)), default=4_000_000_000, help="measure the limits with at most so many bytes, and scale (default 4e9)")
    parser.add_argument("--folder", help="where to run and write (default: the folder for temporary files)")
    parser.add_argument("--packs", help="keep the packs here, and use those that are there")
    benchmark(parser, measure, tables)
