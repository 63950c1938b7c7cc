#!/usr/bin/env python3
"""Run the benchmarks and write the page of results: every figure of it is made here.

  report.py [--merchants 10000,100000,1000000] [--output benchmarks/RESULTS.md]     all parts; those that were measured are not measured again
  report.py --quick                                                                 the same on small sizes, to see that it works; the page goes to stdout
  report.py --only kernels,end_to_end-1000000 [--again]                             some parts, or the same ones once more; the page has the others too
  report.py --list                                                                  the parts, and which of them are there

A part is one benchmark, or the whole runs of one size (`end_to_end-SIZE`). Each is a command of its own, whose results are kept as RESULTS/<part>.json at once: a report
that was interrupted continues where it stood. A result of another version of the code, or of other flags, counts as not measured. The page is written after each part.
"""
import argparse
import importlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

from measure import Table, say
from seg1a.core.lineage import code_digest

HERE = Path(__file__).resolve().parent
TITLES = {"end_to_end": "Whole runs", "cold_start": "Cold start", "limits": "What the machine allows", "kernels": "Small steps", "alternatives": "Instead of the engine's parts"}
SMALL = {"cold_start": ["--merchants", "2000", "--repeat", "1"], "limits": ["--bytes", "1e8"], "kernels": ["--draws", "5000", "--rows", "2048", "--repeat", "2"],
         "alternatives": ["--rows", "2048", "--merchants", "1000", "--repeat", "2"]}


def parts(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Part -> flags of its command, in the order in which they are measured: quick ones first."""
    shared = {"limits": ["--repeat", str(arguments.repeat)]} | (SMALL if arguments.quick else {})
    found = {name: shared.get(name, []) for name in TITLES if name != "end_to_end"}
    for size in sorted(int(float(text)) for text in arguments.merchants.split(",")):
        flags = ["--merchants", str(size), "--repeat", str(arguments.repeat)] + (["--direct-io"] if arguments.direct_io else [])
        found[f"end_to_end-{size}"] = flags + (["--cases", arguments.cases] if arguments.cases else [])
    return found


def kept(part: str, flags: list[str], folder: Path) -> dict | None:
    """The result of a part if it was measured with this code and these flags."""
    place = folder / f"{part}.json"
    result = json.loads(place.read_text()) if place.exists() else {}
    return result if (result.get("code"), result.get("command")) == (code_digest(), flags) else None


def measured_part(part: str, flags: list[str], arguments: argparse.Namespace) -> None:
    """Measure a part and keep its result; the report ends when it fails."""
    name = part.partition("-")[0]
    places = [word for flag in ("packs", "folder") if name == "end_to_end" and (place := getattr(arguments, flag)) for word in (f"--{flag}", place)]
    say(f"report: {shlex.join(['python', f'benchmarks/{name}.py', *flags])}")
    done = subprocess.run([sys.executable, str(HERE / f"{name}.py"), "--json", *flags, *places], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"report: {part} ended with status {done.returncode}; the parts before it are kept")
    result = json.loads(done.stdout) | {"code": code_digest(), "command": flags}
    (arguments.results / f"{part}.json").write_text(json.dumps(result, indent=1))


def joined(results: dict[str, dict]) -> dict[str, dict]:
    """One result for each benchmark: the sizes of the whole runs side by side."""
    runs = [result for part, result in results.items() if part.startswith("end_to_end")]
    others = {part: result for part, result in results.items() if not part.startswith("end_to_end")}
    if not runs:
        return others
    sizes = [size for run in runs for size in run["sizes"]]
    merchants = [size["merchants"] for size in sizes]
    whole = {**runs[0], "flags": runs[0]["flags"] | {"merchants": merchants}, "sizes": sizes}
    return {"end_to_end": whole | {"exponents": importlib.import_module("end_to_end").fitted(sizes)}, **others}


def glance(results: dict[str, dict]) -> list[Table]:
    """The figures that people ask for first, the sizes of the whole runs side by side."""
    sizes = results.get("end_to_end", {}).get("sizes", [])

    def used(case: str, key: str) -> list:
        return [size["cases"].get(case, {}).get("usage", {}).get(key) for size in sizes]

    def states(case: str) -> list:
        return [sum(size["cases"][case]["states"].values()) if case in size["cases"] else None for size in sizes]

    ratio = {"whole, merchants/s of the states' time": "merchants/s, the states' own time", "whole, merchants/s": "merchants/s, whole run", "(produce + validate) / plain": "produce + validate, against writing and hashing the same bytes",
             "one worker / workers, states' time": "one worker against two, states' time"}
    rows = [(title, *(size["ratios"].get(name) for size in sizes)) for name, title in ratio.items()]
    rows += [(f"{title}, seconds", *used(case, "wall")) for case, title in (("produce", "produce"), ("validate", "validate from disk"), ("whole", "whole run, validators and notebooks on"))]
    rows += [("the same, the states' own time, seconds", *states("whole")), ("verify the seal, seconds", *used("verify", "wall"))]
    rows += [(f"peak memory, {what}, MiB", *map(_rounded, used("whole", key))) for key, what in (("process_mib", "largest process"), ("tree_mib", "all processes"))]
    found = [Table("At a glance", ("what", *(f"{size['merchants']:,}" for size in sizes)), rows)] if sizes else []
    beside = results.get("alternatives", {}).get("ratios", {})
    return found + ([Table("Log rows, against the usual library", ("ratio", "value"), list(beside.items()))] if beside else [])


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)


def command_line(name: str, flags: dict) -> str:
    """How the results were made, as one would type it; folders are of no interest."""
    words = [f"python benchmarks/{name}.py"]
    for key, value in flags.items():
        if key not in ("folder", "packs"):
            words.append("--" + key.replace("_", "-"))
            words += [] if value is True else [",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return " ".join(words)


def page(results: dict[str, dict]) -> str:
    """The page: the machine, the figures at a glance, then the tables of each benchmark under the command that made them."""
    results = {name: result for name, result in sorted(joined(results).items(), key=lambda item: list(TITLES).index(item[0]))}
    machines = list(dict.fromkeys(json.dumps(result["machine"], sort_keys=True) for result in results.values()))
    about = "; ".join(f"{facts['cores']} cores of {facts['cpu']}, {facts['memory_gib']} GiB, Python {facts['python']}" for facts in map(json.loads, machines))
    text = ["# Measured", f"Made by `python benchmarks/report.py`; do not edit. Machine: {about}. How to read each table: `benchmarks/README.md`. Ratios hold better than seconds.", *map(str, glance(results))]
    for name, result in results.items():
        text += [f"## {TITLES[name]}", f"`{command_line(name, result['flags'])}`", *map(str, importlib.import_module(name).tables(result))]
    return "\n\n".join(text) + "\n"


def write_page(wanted: dict[str, list[str]], arguments: argparse.Namespace) -> None:
    """The page of all parts that are there."""
    results = {part: result for part, flags in wanted.items() if (result := kept(part, flags, arguments.results)) is not None}
    if results:
        print(page(results), end="") if arguments.output == "-" else Path(arguments.output).write_text(page(results))


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merchants", help="sizes of the whole runs (default 10000,100000,1000000; with --quick 2000,5000)")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds; the figures mean little")
    parser.add_argument("--repeat", type=int, default=1, help="rounds of the whole runs and of the limits, the fastest counts (default 1)")
    parser.add_argument("--direct-io", action="store_true", help="whole runs past the page cache")
    parser.add_argument("--cases", help="cases of the whole runs (default: all)")
    parser.add_argument("--packs", help="keep packs here between parts (default: each part builds its own)")
    parser.add_argument("--folder", help="where whole runs are written (default: the folder for temporary files)")
    parser.add_argument("--only", help="parts to measure, with commas; `end_to_end` is all its sizes (default: all parts)")
    parser.add_argument("--again", action="store_true", help="measure also what is there")
    parser.add_argument("--list", action="store_true", help="say which parts there are, and measure nothing")
    parser.add_argument("--results", type=Path, help="folder of the results (default benchmarks/results, with --quick benchmarks/results/quick)")
    parser.add_argument("--output", help="the page; - for stdout (default benchmarks/RESULTS.md, with --quick -)")
    arguments = parser.parse_args()
    arguments.merchants = arguments.merchants or ("2000,5000" if arguments.quick else "10000,100000,1000000")
    arguments.results = arguments.results or HERE / "results" / ("quick" if arguments.quick else "")
    arguments.output = arguments.output or ("-" if arguments.quick else str(HERE / "RESULTS.md"))
    known = parts(arguments)
    arguments.only = list(known) if not arguments.only else [part for name in arguments.only.split(",") for part in known if name in (part, part.partition("-")[0])] or parser.error(f"parts are {','.join(known)}")
    return arguments


def main() -> None:
    arguments = arguments_of()
    arguments.results.mkdir(parents=True, exist_ok=True)
    wanted = parts(arguments)
    if arguments.list:
        for part, flags in wanted.items():
            print(f"{'measured' if kept(part, flags, arguments.results) else 'missing':9} {part}")
        return
    for part in arguments.only:
        if arguments.again or kept(part, wanted[part], arguments.results) is None:
            measured_part(part, wanted[part], arguments)
            if arguments.output != "-":
                write_page(wanted, arguments)
    write_page(wanted, arguments)


if __name__ == "__main__":
    main()
