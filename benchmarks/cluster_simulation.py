#!/usr/bin/env python3
"""A run that is too large for this machine, on paper: a thousand million merchants on a hundred workers, from what tasks were seen to take.

  cluster_simulation.py RECORD [--merchants 1000000000] [--workers 100] [--rows 32768,131072,262144,1048576]

RECORD is what `cluster.py --record` kept. Every shard of every stage is simulated as an event: the coordinator hands out items one after the other, workers do tasks
(times drawn from those recorded, scaled to the rows of a shard), results are taken in order, at most two tasks a thread in the works. Links have a width, requests
a latency. First the recorded run itself is simulated, and compared with what was measured.

Layouts:
  as built       items, results, parts and trace rows pass the coordinator; S3, tables, seal and commit are its work alone
  fully sharded  a worker reads its rows from the store and leaves its part of every table, stream and of the trace there, each an object with its digest;
                 only counters and digests come back. S3 is done by shards too, the seal reads no data. This layout does not exist.
"""
import argparse
import heapq
import json
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from measure import Table, benchmark

RECORDED_ROWS = 32_768
COUNTERS = 2_000  # bytes that a fully sharded task tells


@dataclass(frozen=True)
class Terms:
    """What a data centre gives: bytes a second of a worker's and of the coordinator's link, seconds a request, seconds a task for the scheduler, bytes a second that one core hashes; prices in dollars."""

    worker_link: float = 250e6
    coordinator_link: float = 1.25e9
    latency: float = 0.03
    scheduling: float = 0.001
    hashing: float = 1.5e9
    put: float = 5e-6
    get: float = 4e-7
    worker_hour: float = 0.04
    coordinator_hour: float = 0.5
    coordinator_memory: float = 64e9


@dataclass(frozen=True)
class Stage:
    """One stage of a state, a shard of `RECORDED_ROWS`: seconds of the passes as recorded, bytes, and seconds of the coordinator."""

    name: str
    first: tuple[float, ...]
    second: tuple[float, ...]
    item: float
    keep: float
    tell: float
    files: float
    trace: float
    coordinator: float
    wall: float

    def scaled(self, factor: float) -> "Stage":
        """The same stage with shards of another size; what is counted by rows grows with them."""
        grown = {name: getattr(self, name) * factor for name in ("item", "keep", "tell", "files", "trace", "coordinator")}
        return replace(self, first=tuple(s * factor for s in self.first), second=tuple(s * factor for s in self.second), **grown)


def stages_of(record: dict) -> list[Stage]:
    """The stages of a recorded run, means over their shards; the last shard of a run is smaller and counts by its rows."""
    rows, stages = record["run"]["merchants"] / RECORDED_ROWS, []
    tasks, ends = defaultdict(lambda: defaultdict(list)), {}
    for line in record["tasks"]:
        if "coordinator" in line:
            ends[line["stage"]] = line
        else:
            tasks[line["stage"]][line["pass"]].append(line)
    for stage, end in ends.items():
        first, second = tasks[stage][1], tasks[stage][2]
        per = lambda lines, name: sum(line[name] for line in lines) / rows
        stages.append(Stage(stage.partition(".")[0], times(first), times(second), per(first, "item"), per(first, "keep"), per(first + second, "tell"),
                            per(first + second, "files"), per(second, "files"), end["coordinator"] / rows, end["wall"]))
    return stages


def times(lines: list[dict]) -> tuple[float, ...]:
    """Seconds of whole shards: without the last one, which is short, and the slowest, which loads the kernels."""
    seconds = [line["seconds"] for line in lines[:-1]] or [line["seconds"] for line in lines]
    return tuple(sorted(seconds)[:-1] or seconds)


def simulate(stage: Stage, shards: int, threads: int, terms: Terms, seed: int = 7, shared: bool = False) -> float:
    """Seconds of a stage. The coordinator is one server: it puts items and takes results in order; `shared`: the exchange is a folder in the page cache, not a store over links."""
    draw, free, clock, done_at = random.Random(seed), [0.0] * threads, 0.0, []
    link = (lambda size, width: 0.0) if shared else (lambda size, width: size / width + terms.latency)
    ahead = 2 * threads
    give = stage.coordinator / 2 + link(stage.item, terms.coordinator_link) + terms.scheduling
    take = stage.coordinator / 2 + link(stage.tell + stage.files, terms.coordinator_link) + terms.scheduling
    if not shared:  # eight requests are under way at once
        give, take = give - terms.latency * 7 / 8, take - terms.latency * 7 / 8
    for shard in range(shards):
        if shard >= ahead:  # room is made by taking the oldest result
            clock = max(clock, done_at[shard - ahead]) + take
        clock += give
        begun = max(heapq.heappop(free), clock)
        spent = draw.choice(stage.first) + link(stage.item, terms.worker_link) + link(stage.keep + stage.tell + stage.files, terms.worker_link)
        if stage.second:
            spent += draw.choice(stage.second) + link(stage.keep, terms.worker_link)
        heapq.heappush(free, begun + spent)
        done_at.append(begun + spent)
    for finished in done_at[max(shards - ahead, 0):]:
        clock = max(clock, finished) + take
    return clock


def alone_seconds(run: dict, stages: list[Stage]) -> float:
    """CPU seconds that stay with the coordinator outside of the stages (reading columns, S3, tables, catalogues, metrics, seal): all that a run costs but the tasks."""
    rows = run["merchants"] / RECORDED_ROWS
    tasks = sum(mean(stage.first) + (mean(stage.second) if stage.second else 0.0) for stage in stages) * rows
    return max(run["cpu_a_merchant"] * run["merchants"] - tasks, 0.0)


def as_built(record: dict, stages: list[Stage], merchants: int, workers: int, terms: Terms) -> dict:
    """The layout of today."""
    run, shards = record["run"], -(-merchants // RECORDED_ROWS)
    scale = merchants / run["merchants"]
    total, data = sum(simulate(stage, shards, workers, terms) for stage in stages), run["bytes"] * scale
    alone = alone_seconds(run, stages) * scale
    seal = data / terms.hashing
    commit = 2 * data / terms.coordinator_link
    moved = shards * sum(2 * (s.item + s.keep + s.tell + s.files) for s in stages) + 2 * data
    puts = shards * sum(3 + bool(s.keep) + bool(s.files) for s in stages)
    return {"stages h": total / 3600, "coordinator alone h": (alone + seal) / 3600, "commit h": commit / 3600, "total h": (total + alone + seal + commit) / 3600,
            "TB moved": moved / 1e12, "M requests": 2 * puts / 1e6, "coordinator GB": run["memory"] * merchants / 1e9 + run["base_mib"] / 1e3,
            "worker GB": worker_memory(stages, run), "dollars": cost(total + alone + seal + commit, puts, puts, workers, terms)}


def fully_sharded(record: dict, stages: list[Stage], merchants: int, workers: int, terms: Terms, rows: int) -> dict:
    """The layout of the paper: what is serial is a counter a shard, and the one digest that covers the trace when it is one object."""
    run, shards, factor = record["run"], -(-merchants // rows), rows / RECORDED_ROWS
    scale, data = merchants / run["merchants"], record["run"]["bytes"] * merchants / record["run"]["merchants"]
    lean = [replace(stage.scaled(factor), coordinator=2e-4, tell=COUNTERS) for stage in stages]
    alone = alone_seconds(run, stages)  # the most of it is S3's and the seal's, and can be done by shards
    s3 = Stage("s3", (alone / (run["merchants"] / RECORDED_ROWS) * factor,), (), 0.0, 0.0, COUNTERS, data / shards / 4, 0.0, 2e-4, 0.0)
    total = sum(simulate(replace(stage, files=0.0), shards, workers, terms) for stage in [*lean, s3])
    uploads = data / (workers * terms.worker_link) * 2  # written once, read once by the validators
    trace = trace_bytes(stages) * merchants
    moved = shards * sum(s.item + 2 * s.keep + 2 * COUNTERS for s in lean) + 2 * data
    requests = shards * sum(6 + 2 * bool(s.keep) for s in lean)
    return {"total h": (total + uploads) / 3600, "with one trace object h": max(total + uploads, trace / terms.hashing) / 3600, "TB moved": moved / 1e12, "M requests": 2 * requests / 1e6,
            "worker GB": worker_memory(lean, run), "dollars": cost(total + uploads, requests, requests, workers, terms), "objects k": shards * 14 / 1e3}


def trace_bytes(stages: list[Stage]) -> float:
    """Bytes of trace a merchant."""
    return sum(stage.trace for stage in stages if not stage.name.endswith("validate")) / RECORDED_ROWS


def worker_memory(stages: list[Stage], run: dict) -> float:
    """GB of a worker: what a process holds anyway, and a shard's item, kept part, result and files, three times over (arrays, pickles, buffers)."""
    return run["base_mib"] * 2**20 / 1e9 + 3 * max(s.item + s.keep + s.tell + s.files for s in stages) / 1e9


def cost(seconds: float, puts: float, gets: float, workers: int, terms: Terms) -> float:
    """Dollars for machines and requests."""
    return seconds / 3600 * (workers * terms.worker_hour + terms.coordinator_hour) + puts * terms.put + gets * terms.get


def breaking_points(record: dict, stages: list[Stage], terms: Terms) -> list[tuple[str, float | None]]:
    """From how many merchants on each thing stands in the way, least first."""
    run = record["run"]
    busy = sum(stage.coordinator + (stage.item + stage.tell + stage.files) / terms.coordinator_link for stage in stages)
    work = sum(mean(stage.first) + (mean(stage.second) if stage.second else 0.0) for stage in stages)
    trace = trace_bytes(stages)
    points = [(f"memory of a coordinator of {terms.coordinator_memory / 1e9:.0f} GB", (terms.coordinator_memory - run["base_mib"] * 2**20) / run["memory"]),
              ("10 000 parts of 16 MiB for the trace as one object", 10_000 * (16 << 20) / trace), ("the trace as one object of 5 TB", 5e12 / trace)]
    return [(f"any size, with more than {work / busy:.1f} workers: the coordinator's own work", None), *sorted(points, key=lambda row: row[1])]


def measure(arguments: argparse.Namespace) -> dict:
    """Check, then both layouts."""
    record, terms = json.loads(Path(arguments.recorded).read_text()), Terms()
    stages = stages_of(record)
    shards = -(-record["run"]["merchants"] // RECORDED_ROWS)
    check = [(stage.name, stage.wall, simulate(stage, shards, record["run"]["workers"], terms, shared=True)) for stage in stages]
    rows = [int(text) for text in arguments.rows.split(",")]
    return {"check": check, "stages": [(s.name, mean(s.first), mean(s.second) if s.second else None, s.item / 1e6, s.keep / 1e6, (s.tell + s.files) / 1e6, s.coordinator) for s in stages],
            "built": as_built(record, stages, arguments.merchants, arguments.workers, terms), "breaks": breaking_points(record, stages, terms),
            "sharded": {size: fully_sharded(record, stages, arguments.merchants, arguments.workers, terms, size) for size in rows}}


def tables(results: dict) -> list[Table]:
    """The recorded shard, the check, and the two layouts."""
    flags = results["flags"]
    title = f"{flags['merchants']:,} merchants on {flags['workers']} workers"
    each: Callable[[dict], list] = lambda found: list(found.values())
    first = next(iter(results["sharded"].values()))
    return [Table("A shard of 32 768 merchants, as recorded", ("stage", "first pass s", "second s", "item MB", "kept MB", "told and files MB", "coordinator s"), results["stages"]),
            Table("The recorded run, simulated", ("stage", "measured s", "simulated s"), [*results["check"], ("all", *(sum(row[i] for row in results["check"]) for i in (1, 2)))]),
            Table(f"{title}, as built", tuple(results["built"]), [each(results["built"])]),
            Table("What stands in the way, as built", ("what", "from so many M merchants on"), [(name, at and at / 1e6) for name, at in results["breaks"]]),
            Table(f"{title}, fully sharded", ("rows a shard", *first), [(f"{size:,}", *each(found)) for size, found in results["sharded"].items()])]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recorded", metavar="RECORD")
    parser.add_argument("--merchants", type=int, default=1_000_000_000)
    parser.add_argument("--workers", type=int, default=100, help="threads of all workers together")
    parser.add_argument("--rows", default="32768,131072,262144,1048576", help="shard sizes of the fully sharded layout")
    benchmark(parser, measure, tables)
