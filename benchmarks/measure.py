"""What the benchmarks share: a clock, a command measured from outside, the machine, results as JSON and as tables.

Imports nothing heavy: the peak memory of a child process is never below what its parent held when it was started.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
SAMPLE_SECONDS = 0.1


def best(call: Callable[[], object], repeat: int) -> float:
    """Wall seconds of the fastest of `repeat` calls."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def compared(calls: dict[str, Callable[[], object]], count: int, repeat: int) -> dict[str, float]:
    """name -> nanoseconds of CPU for each of the `count` things that a call does: the least of `repeat` rounds, in each of which every call has its turn.

    CPU time of this process, not wall time: other work on the machine then bears on all calls alike, and little."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeat):
        for name, call in calls.items():
            started = time.process_time()
            call()
            times[name].append(time.process_time() - started)
    return {name: min(found) / count * 1e9 for name, found in times.items()}


@dataclass(frozen=True)
class Usage:
    """What a command used: wall seconds, CPU seconds (user and system, of all its processes), and peak memory in MiB.

    `process_mib` is the largest resident set of one process, as the kernel counted it (wait4); `tree_mib` the largest sum over the command and its
    children, sampled ten times a second from /proc, pages that processes share counted once for each."""

    wall: float
    cpu: float
    process_mib: float
    tree_mib: float


def _resident_pages() -> dict[int, tuple[int, int]]:
    """process id -> (parent's id, resident pages), of every process of the machine."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            found[int(entry)] = int(fields[1]), int(fields[21])
    return found


def tree_bytes(root: int) -> int:
    """The resident sets of a process and its descendants together, in bytes; 0 where there is no /proc."""
    if not os.path.isdir("/proc/self"):
        return 0
    processes, tree, size = _resident_pages(), {root}, -1
    while len(tree) != size:
        size = len(tree)
        tree |= {process for process, (parent, _) in processes.items() if parent in tree}
    return PAGE * sum(processes[process][1] for process in tree if process in processes)


def _watch(process: int, ended: threading.Event, peaks: list[int]) -> None:
    while not ended.wait(SAMPLE_SECONDS):
        peaks.append(tree_bytes(process))


def measured(command: Sequence[object], **environment: str) -> tuple[Usage, str, str]:
    """(usage, stdout, stderr) of a command that must end with status 0; the benchmark ends when it does not."""
    words = [str(word) for word in command]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started, ended, peaks = time.monotonic(), threading.Event(), [0]
        child = subprocess.Popen(words, stdout=out, stderr=err, env=os.environ | environment)
        watcher = threading.Thread(target=_watch, args=(child.pid, ended, peaks))
        watcher.start()
        _, status, used = os.wait4(child.pid, 0)
        wall = time.monotonic() - started
        ended.set()
        watcher.join()
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = [(file.seek(0), file.read())[1] for file in (out, err)]
    if child.returncode:
        sys.exit(f"status {child.returncode}: {' '.join(words)}\n{texts[0][-2000:]}{texts[1][-4000:]}")
    return Usage(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, max(peaks) / 2**20), *texts


def seg1a(*arguments: object, **environment: str) -> tuple[Usage, str, str]:
    """`measured` of the command line of the package."""
    return measured([sys.executable, "-m", "seg1a", *arguments], **environment)


def run_root(stdout: str) -> Path:
    """The run root that the last line of `seg1a run` names."""
    return Path(stdout.splitlines()[-1].partition(" ")[2])


def tree_size(root: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float | None:
    """The slope of log time against log size by least squares: 1 is proportional. None for fewer than two sizes."""
    if len(sizes) < 2:
        return None
    x, y = [math.log(size) for size in sizes], [math.log(seconds) for seconds in times]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)


def machine() -> dict[str, object]:
    """What the figures depend on: CPU model, cores that may be used, memory, Python; nothing that names the machine."""
    model = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown CPU")
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory / 2**20), "python": sys.version.split()[0]}


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def say(line: str) -> None:
    """A line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)


def number(value: object) -> str:
    """A cell of a table: three significant digits for floats, thousands separated, `-` for nothing."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@dataclass(frozen=True)
class Table:
    """A title, a header and rows of cells, as Markdown; text columns left, numbers right."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]

    def __str__(self) -> str:
        cells = [[str(name) for name in self.header], *[[number(cell) for cell in row] for row in self.rows]]
        widths = [max(3, *(len(row[c]) for row in cells)) for c in range(len(self.header))]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines = [[row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))] for row in cells]
        return "\n".join([f"**{self.title}**", "", *("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])])


def benchmark(parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], dict], tables: Callable[[dict], Iterable[Table]]) -> None:
    """The body of every command: measure what the flags ask for, then print tables, or with --json what they are made of."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of tables")
    arguments = parser.parse_args()
    flags = {name: value for name, value in vars(arguments).items() if isinstance(value, (int, str, list)) and value is not False and name != "json"}
    results = {"flags": flags, "machine": machine(), **measure(arguments)}
    print(json.dumps(results, indent=1, default=_plain) if arguments.json else "\n\n".join(map(str, tables(results))))


def _plain(value: object) -> object:
    return asdict(value) if isinstance(value, Usage) else str(value)
