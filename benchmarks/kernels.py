#!/usr/bin/env python3
"""The small steps of which a run consists, in nanoseconds: a draw, a key, an exact function, a row.

  kernels.py [--draws 200000] [--rows 32768] [--repeat 5]

Compiled kernels on one thread, CPU time, the least of --repeat rounds. Draws include the Philox blocks and exact functions that they need; a ZTP draw all its
attempts. Beside an exact function stand CPython's math module and NumPy, which are not exact. A row is formatted in memory, written to a file with its digest, replayed (made
again and compared with the file), and read back (from memory, and from the file); the files lie in the page cache.
"""
import argparse
import tempfile
from pathlib import Path

import numpy as np

from alternatives import LINEAGE, hurdle_case, trace_case
from exact_functions import FUNCTIONS, times
from measure import Table, benchmark, compared, say
from seg1a.core.event_checks import validate_event_part, validate_trace
from seg1a.core.event_rows import read_event_part, write_event_part
from seg1a.core.kernels import kernel
from seg1a.core.philox import counter_add, merchant_u64_array, philox_block, substream_keys
from seg1a.core.rows import RowBuffer, format_rows, parse_rows
from seg1a.core.run import Options, Run
from seg1a.core.samplers import gamma_k, normal_k, poisson_k, uniform1_k
from seg1a.core.trace import TraceAppender, TraceColumns

CODES = {"schema": "schema_violation", "replay": "replay_mismatch"}
KEY, HI = np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344)


@kernel
def _blocks(key, hi, out):
    for i in range(out.size):
        out[i], _ = philox_block(key, hi, np.uint64(i))


@kernel
def _uniforms(key, hi, out):
    for i in range(out.size):
        out[i] = uniform1_k(key, hi, np.uint64(i))


@kernel
def _normals(key, hi, out):
    for i in range(out.size):
        out[i] = normal_k(key, hi, np.uint64(i))


@kernel
def _gammas(alpha, key, hi, out):
    for i in range(out.size):
        out[i], _, _, _, _ = gamma_k(alpha, key, hi, np.uint64(i) << np.uint64(20))


@kernel
def _poissons(lam, key, hi, out):
    for i in range(out.size):
        out[i], _, _ = poisson_k(lam, key, hi, np.uint64(i) << np.uint64(20))


@kernel
def _ztps(lam, key, hi, out):
    for i in range(out.size):
        at, lo, k = hi, np.uint64(i) << np.uint64(20), np.int64(0)
        while k == 0:
            k, blocks, _ = poisson_k(lam, key, at, lo)
            at, lo = counter_add(at, lo, blocks)
        out[i] = k


def draw_ns(n: int, repeat: int) -> dict[str, float]:
    """Draws at counters far enough apart, and substream keys."""
    say("kernels: draws")
    words, floats, counts = np.empty(n, np.uint64), np.empty(n), np.empty(n, np.int64)
    ids, master = np.sort(np.random.default_rng(1).integers(1, 2**63, n)), bytes(range(32))
    known = merchant_u64_array(ids)
    calls = {"Philox block": lambda: _blocks(KEY, HI, words), "uniform": lambda: _uniforms(KEY, HI, floats), "normal": lambda: _normals(KEY, HI, floats)}
    calls |= {f"gamma, shape {alpha}": lambda alpha=alpha: _gammas(alpha, KEY, HI, floats) for alpha in (0.5, 2.5)}
    calls |= {f"Poisson, mean {lam}": lambda lam=lam: _poissons(lam, KEY, HI, counts) for lam in (3.0, 50.0)}
    calls |= {f"ZTP, mean {lam} before truncation": lambda lam=lam: _ztps(lam, KEY, HI, counts) for lam in (0.5, 3.0)}
    calls["substream key"] = lambda: substream_keys(master, "gamma_nb", ids, known)
    calls["substream key, the merchant's part included"] = lambda: substream_keys(master, "gamma_nb", ids)
    for call in calls.values():  # compile
        call()
    return compared(calls, n, repeat)


def function_ns(n: int) -> dict[str, dict[str, float]]:
    """Exact functions where the samplers use them, beside CPython's and NumPy's."""
    say("kernels: exact functions")
    return {name: dict(zip(("kernel", "math", "numpy"), times(name, n))) for name in FUNCTIONS}


def event_calls(run: Run, rows: int) -> dict:
    """What is done with the rows of the widest event stream."""
    _, _, program, columns = hurdle_case(rows, np.random.default_rng(1))
    text, buffer = format_rows(program, columns), RowBuffer()
    place = run.root / write_event_part(run, "hurdle_bernoulli", 0, columns).path

    def write() -> None:
        place.unlink()
        write_event_part(run, "hurdle_bernoulli", 0, columns)

    def replay() -> None:
        if validate_event_part(run, "hurdle_bernoulli", 0, columns, CODES):
            raise ValueError("the replay found a difference")

    return {"formatted": lambda: format_rows(program, columns, buffer), "written, with digest and fsync": write, "replayed from the file": replay,
            "read from memory": lambda: parse_rows(program, text, buffer), "read from the file": lambda: read_event_part(run, "hurdle_bernoulli", 0)}


def trace_calls(run: Run, rows: int) -> dict:
    """What is done with rows of the trace."""
    _, _, program, columns = trace_case(rows, np.random.default_rng(1))
    text, buffer, ones = format_rows(program, columns), RowBuffer(), np.ones(rows, np.uint64)
    events = TraceColumns(np.zeros(rows, np.uint8), {name: columns[name] for name in columns if name.startswith("rng_counter")}, ones, ones)

    def write() -> None:
        with TraceAppender(run, 1) as appender:
            appender.append(events)

    def replay() -> None:
        if validate_trace(run, 1, [events], CODES)[0]:
            raise ValueError("the replay found a difference")

    write()
    return {"formatted": lambda: format_rows(program, columns, buffer), "written, with digest and fsync": write, "replayed from the file": replay,
            "read from memory": lambda: parse_rows(program, text, buffer)}


def row_ns(rows: int, repeat: int) -> dict[str, dict[str, float]]:
    """kind of row -> what is done with it -> ns."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        run = Run(Path(place) / "run", Path(place) / "pack", LINEAGE, Options(), "0" * 40)
        for name, calls in (("hurdle event", event_calls(run, rows)), ("trace row", trace_calls(run, rows))):
            say(f"kernels: {name}")
            found[name] = compared(calls, rows, repeat)
    return found


def measure(arguments: argparse.Namespace) -> dict:
    return {"draws": draw_ns(arguments.draws, arguments.repeat), "functions": function_ns(arguments.draws), "rows": row_ns(arguments.rows, arguments.repeat)}


def tables(results: dict) -> list[Table]:
    rows, functions = results["rows"], results["functions"]
    done = list(dict.fromkeys(name for kind in rows.values() for name in kind))
    return [Table("A draw, a key", ("what", "CPU ns"), list(results["draws"].items())),
            Table("An exact function", ("function", "kernel ns", "math ns", "NumPy ns", "kernel / NumPy"), [(name, *ns.values(), ns["kernel"] / ns["numpy"]) for name, ns in functions.items()]),
            Table("A row", ("what", *(f"{kind}, CPU ns" for kind in rows)), [(name, *(kind.get(name) for kind in rows.values())) for name in done])]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200_000)
    parser.add_argument("--rows", type=int, default=32_768)
    parser.add_argument("--repeat", type=int, default=5)
    benchmark(parser, measure, tables)
