#!/usr/bin/env python3
"""What a Dask cluster costs against the thread pool, on the same cores: whole runs with validators and notebooks, all bytes compared.

  cluster.py [--merchants 300000] [--workers 2] [--repeat 1] [--folder DIR] [--packs DIR] [--record FILE]

Cases: `threads` (`--workers N`), `existing` (`--dask tcp://…`, a cluster that stands already, as in a data centre), `started` (`--dask local:N`, the cluster starts
and ends with the run). Ratios are to `threads`. The sealed files of all cases must be equal, or the benchmark ends with status 1. `--record` keeps what
each task took and moved, for `cluster_simulation.py`; kernels are compiled before anything is timed.
"""
import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from end_to_end import built_pack, state_seconds
from measure import Table, benchmark, measured, run_root, say, seg1a, tree_size

FLAGS = ("--seed", "7", "--start-time-ns", "1700000000000000000", "--git-commit", "ab" * 20, "--quiet")
UNSEALED = ("logs/telemetry/", "run_summary.json")


def sealed(root: Path) -> dict[str, str]:
    """path -> digest of every file that no engine may change."""
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: hashlib.file_digest(path.open("rb"), "sha256").hexdigest() for name, path in files.items() if not name.startswith(UNSEALED)}


def run_case(case: str, pack: Path, folder: Path, workers: int, record: Path) -> dict:
    """One run by one engine: what it used, and the digest of all that is sealed."""
    say(f"cluster: {case}")
    common = ("run", "--pack", pack, "--output-dir", folder, *FLAGS)
    if case == "threads":
        used, out, _ = seg1a(*common, "--workers", workers)
    elif case == "started":
        used, out, _ = seg1a(*common, "--dask", f"local:{workers}")
    else:
        from seg1a.operations.engine import _client
        from seg1a.operations.local_cluster import local_cluster

        with local_cluster(workers) as address:
            client = _client(address)
            client.wait_for_workers(workers, timeout=120)
            client.close()
            used, out, _ = seg1a(*common, "--dask", address, SEG1A_TASK_LOG=str(record))
    root = run_root(out)
    found = {"usage": used, "states": state_seconds(root)[0], "bytes": tree_size(root), "sealed": sealed(root), "seal": seal_seconds(root)}
    shutil.rmtree(folder)
    return found


def seal_seconds(root: Path) -> float:
    """Seconds of sealing."""
    return json.loads((root / "run_summary.json").read_text())["run"]["seconds"]["seal"]


ONE_PROCESS = """
import sys, time
from pathlib import Path
from seg1a.core.run import Options
from seg1a.operations.pipeline import RunRequest, run_pipeline
folder, *packs = map(Path, sys.argv[1:])
for number, pack in enumerate([packs[0], *packs]):  # the first run loads the kernels
    started = time.process_time()
    assert run_pipeline(RunRequest(pack, folder / str(number), 7, "ab" * 20, 5, Options(notebooks=False), 1))["gate"]["status"] == "PASS"
    print(time.process_time() - started)
"""


def cpu_a_merchant(small: Path, pack: Path, folder: Path) -> float:
    """CPU seconds that one more merchant costs a run in one thread, validators and seal included: from two sizes, kernels loaded."""
    say("cluster: what a merchant costs")
    _, out, _ = measured([sys.executable, "-c", ONE_PROCESS, folder / "one", small, pack])
    _, less, more = map(float, out.split())
    shutil.rmtree(folder / "one")
    return (more - less) / (merchants_of(pack) - merchants_of(small))


def merchants_of(pack: Path) -> int:
    """The number in the name of a pack of `built_pack`."""
    return int(pack.name.removeprefix("pack-"))


def measure(arguments: argparse.Namespace) -> dict:
    """Every case, `repeat` times; of each the run with the least wall time."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as own:
        folder, record = Path(own), Path(own) / "tasks.jsonl"
        pack = built_pack(arguments.merchants, Path(arguments.packs or own))
        small = run_case("threads", built_pack(10_000, Path(arguments.packs or own)), folder / "warm", arguments.workers, record)
        runs = []
        for _ in range(arguments.repeat):
            record.unlink(missing_ok=True)
            runs.append({case: run_case(case, pack, folder / case, arguments.workers, record) for case in ("threads", "existing", "started")})
        best = {case: min((run[case] for run in runs), key=lambda result: result["usage"].wall) for case in runs[0]}
        if any(result["sealed"] != best["threads"]["sealed"] for run in runs for result in run.values()):
            sys.exit("the engines do not agree on the sealed bytes")
        threads = best["threads"]
        if arguments.record:
            memory = (threads["usage"].process_mib - small["usage"].process_mib) * 2**20 / (arguments.merchants - 10_000)
            facts = {"merchants": arguments.merchants, "workers": arguments.workers, "bytes": threads["bytes"], "files": len(threads["sealed"]), "seal": threads["seal"],
                     "states": best["existing"]["states"], "memory": memory, "base_mib": small["usage"].process_mib,
                     "cpu_a_merchant": cpu_a_merchant(built_pack(10_000, Path(arguments.packs or own)), pack, folder)}
            lines = [json.loads(line) for line in record.read_text().splitlines()]
            Path(arguments.record).write_text(json.dumps({"run": facts, "tasks": lines}, indent=0) + "\n")
    return {"cases": {case: {name: value for name, value in result.items() if name != "sealed"} for case, result in best.items()}, "files": len(threads["sealed"])}


def tables(results: dict) -> list[Table]:
    """One table."""
    base = results["cases"]["threads"]["usage"]
    rows = [[case, used["usage"].wall, used["usage"].wall / base.wall, used["usage"].cpu, used["usage"].cpu / base.cpu, used["usage"].tree_mib] for case, used in results["cases"].items()]
    title = f"{results['flags']['merchants']:,} merchants, {results['files']} sealed files equal in all cases"
    return [Table(title, ("engine", "wall s", "ratio", "CPU s", "ratio", "MiB, all processes"), rows)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--merchants", type=int, default=300_000)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="threads, or workers of one thread (default 2)")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--folder", metavar="DIR", help="where runs are made (default: the folder for temporary files)")
    parser.add_argument("--packs", metavar="DIR", help="where packs are kept (default: built anew)")
    parser.add_argument("--record", metavar="FILE", help="keep seconds and bytes of every task here")
    benchmark(parser, measure, tables)
