"""Time a row: the row programs of the event logs beside the usual ways to write and read JSON lines.

    python benchmarks/rows.py [--rows 32768] [--repeat 5]

Prints nanoseconds a row on one thread (polars uses its own threads), best of `repeat`, and the ratio to the row program.
Libraries that are not installed are left out. Every writer is checked to write, and every reader to read, the same values.
"""
import argparse
import io
import json
import time
from importlib.util import find_spec

import numpy as np

from seg1a.core.encoding import canonical_json
from seg1a.core.rows import RowBuffer, format_rows, parse_rows, row_objects, row_program

LINEAGE = {"run_id": "886e5c7b62494be9559d0fbb6c83e888", "seed": 20251031, "ts_utc": "2025-10-31T10:00:00.123456Z"}
HASHES = {"parameter_hash": "e32d488e3cec8141" * 4, "manifest_fingerprint": "e1ed27fd91518ed3" * 4}
COUNTERS = {f"rng_counter_{side}_{half}": "U64" for side in ("before", "after") for half in ("hi", "lo")}


def hurdle_case(rows: int, rng: np.random.Generator):
    "The widest event stream: 665 bytes, two floats, four counter words."
    program = row_program(
        {**LINEAGE, **HASHES, "module": "1A.hurdle_sampler", "substream_label": "hurdle_bernoulli"},
        {**COUNTERS, "blocks": "U64", "draws": "U64_TEXT", "merchant_id": "I64", "pi": "F64", "u": "F64_OR_NULL",
         "is_multi": (False, True), "deterministic": (False, True)})
    hi, lo = rng.integers(0, 2**64, (2, rows), dtype=np.uint64)
    one, pi, u = np.ones(rows, np.uint64), rng.random(rows), rng.random(rows)
    columns = {"rng_counter_before_hi": hi, "rng_counter_before_lo": lo, "rng_counter_after_hi": hi, "rng_counter_after_lo": lo + one,
               "blocks": one, "draws": one, "merchant_id": np.sort(rng.integers(1, 2**63, rows)), "pi": pi, "u": u,
               "is_multi": u < pi, "deterministic": np.zeros(rows, bool)}
    return "hurdle event", program, columns


def trace_case(rows: int, rng: np.random.Generator):
    "A trace row: integers only."
    program = row_program({**LINEAGE, "module": "1A.hurdle_sampler", "substream_label": "hurdle_bernoulli"},
                          {**COUNTERS, "draws_total": "U64", "blocks_total": "U64", "events_total": "U64"})
    hi, lo = rng.integers(0, 2**64, (2, rows), dtype=np.uint64)
    total = np.arange(1_000_001, 1_000_001 + rows, dtype=np.uint64)
    columns = {"rng_counter_before_hi": hi, "rng_counter_before_lo": lo, "rng_counter_after_hi": hi, "rng_counter_after_lo": lo + np.uint64(1),
               "draws_total": total, "blocks_total": total, "events_total": total}
    return "trace row", program, columns


def best(call, repeat: int) -> float:
    "Seconds of the fastest of `repeat` calls."
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def polars_frame(program, objects):
    import polars as pl

    schema = {key: pl.UInt64 if isinstance(v, int) and not isinstance(v, bool) else None for key, v in objects[0].items()}
    return pl.DataFrame(objects, schema_overrides={k: t for k, t in schema.items() if t}, infer_schema_length=None).select(sorted(objects[0]))


def writers(program, columns, objects):
    "name -> call that writes all rows."
    buffer = RowBuffer()
    calls = {"row program": lambda: format_rows(program, columns, buffer)}
    if find_spec("orjson"):
        import orjson
        calls["orjson, from dicts"] = lambda: b"".join([orjson.dumps(o, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE) for o in objects])
    if find_spec("polars"):
        frame = polars_frame(program, objects)
        calls["polars write_ndjson"] = lambda: frame.write_ndjson(io.BytesIO())
    calls["json.dumps, from dicts"] = lambda: "\n".join([canonical_json(o) for o in objects])
    calls["columns to dicts, json.dumps"] = lambda: "\n".join([canonical_json(o) for o in row_objects(program, columns)])
    return calls


def readers(program, text: np.ndarray, objects):
    "name -> call that reads all rows."
    buffer, data = RowBuffer(), text.tobytes()
    calls = {"row program": lambda: parse_rows(program, text, buffer)}
    if find_spec("orjson"):
        import orjson
        calls["orjson, to dicts"] = lambda: [orjson.loads(line) for line in data.splitlines()]
    if find_spec("polars"):
        import polars as pl
        schema = polars_frame(program, objects[:2]).schema
        calls["polars read_ndjson, with schema"] = lambda: pl.read_ndjson(io.BytesIO(data), schema=schema)
    calls["json.loads, to dicts"] = lambda: [json.loads(line) for line in data.splitlines()]
    return calls


def check(program, columns, objects, text) -> None:
    "The row program's text is json.dumps' text, and reads back to the same columns."
    assert text.tobytes().decode() == "".join(canonical_json(o) + "\n" for o in objects)
    parsed, bad = parse_rows(program, text)
    assert bad == -1 and all(np.array_equal(parsed[name], columns[name]) for name in program.names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=32_768)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    for case in (hurdle_case, trace_case):
        name, program, columns = case(options.rows, np.random.default_rng(1))
        objects, text = row_objects(program, columns), format_rows(program, columns)
        check(program, columns, objects, text)
        for title, calls in (("write", writers(program, columns, objects)), ("read", readers(program, text, objects))):
            times = {label: best(call, options.repeat) / options.rows * 1e9 for label, call in calls.items()}
            print(f"{title} {name}, {text.size / options.rows:.0f} bytes a row")
            for label, ns in times.items():
                print(f"  {label:32s} {ns:9.0f} ns/row {ns / times['row program']:7.1f} x")


if __name__ == "__main__":
    main()
