#!/usr/bin/env python3
"""The parts of the engine beside what one would pick instead, in one run.

  alternatives.py [--rows 32768] [--merchants 20000] [--repeat 5]

Writing log rows to the null device: orjson with dictionaries made from the columns, orjson and json with dictionaries that are there already, polars, duckdb. Reading
and checking them: orjson and json (parsing alone, nothing checked), jsonschema (on a sample of the rows, time scaled), polars and duckdb with a schema, polars with a
check of the constant columns. Sampling a negative binomial a merchant (a gamma, then a Poisson variate): NumPy's Generator(Philox), one a merchant, one that is set
anew for each merchant, and one for all in bulk, which no longer lets one merchant be drawn again by itself. Everything runs on one thread, the libraries' own pools
included. Every writer is checked to write, and every reader to read, the same values. Nanoseconds of CPU a row or merchant, the least of --repeat rounds, and the
ratio to the engine's own. What is not installed is left out.
"""
import argparse
import io
import json
import os
import tempfile
from collections import deque
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path

import numpy as np

from measure import Table, benchmark, compared, say
from seg1a.core.contracts import contracts
from seg1a.core.encoding import canonical_json, canonical_line
from seg1a.core.event_rows import event_program
from seg1a.core.kernels import kernel
from seg1a.core.philox import merchant_u64_array, substream_keys
from seg1a.core.rows import RowBuffer, format_chunks, format_rows, parse_rows
from seg1a.core.run import Lineage
from seg1a.core.samplers import gamma_k, poisson_k
from seg1a.core.trace import trace_keys, trace_program

LINEAGE = Lineage(20251031, "e32d488e3cec8141" * 4, "e1ed27fd91518ed3" * 4, "886e5c7b62494be9559d0fbb6c83e888", 1_761_904_800_000_000_000)
SAMPLE = 300  # rows that jsonschema checks


def counter_columns(rows: int, rng: np.random.Generator) -> dict:
    """Counters of events of one block each."""
    hi, lo = rng.integers(0, 2**64 - 1, (2, rows), dtype=np.uint64)
    return {"rng_counter_before_hi": hi, "rng_counter_before_lo": lo, "rng_counter_after_hi": hi, "rng_counter_after_lo": lo + np.uint64(1)}


def hurdle_case(rows: int, rng: np.random.Generator) -> tuple:
    """The widest event stream: two floats, four counter words."""
    one, pi, u = np.ones(rows, np.uint64), rng.random(rows), rng.random(rows)
    columns = {**counter_columns(rows, rng), "blocks": one, "draws": one, "merchant_id": np.sort(rng.integers(1, 2**63, rows)), "pi": pi, "u": u,
               "is_multi": u < pi, "deterministic": np.zeros(rows, bool)}
    return "hurdle event", "rng_event_hurdle_bernoulli", event_program("hurdle_bernoulli", LINEAGE), columns


def trace_case(rows: int, rng: np.random.Generator) -> tuple:
    """A trace row: integers only."""
    total, zeros = np.arange(1_000_001, 1_000_001 + rows, dtype=np.uint64), np.zeros(rows, np.uint8)
    columns = {**counter_columns(rows, rng), "module": zeros, "substream_label": zeros, "draws_total": total, "blocks_total": total, "events_total": total}
    return "trace row", "rng_trace_log", trace_program(trace_keys(1), LINEAGE), columns


def polars_frame(objects: list[dict]):
    """The rows as a polars frame, integers unsigned, columns in the order of the keys."""
    import polars as pl

    schema = {key: pl.UInt64 for key, value in objects[0].items() if isinstance(value, int) and not isinstance(value, bool)}
    return pl.DataFrame(objects, schema_overrides=schema, infer_schema_length=None).select(sorted(objects[0]))


def duckdb_connection():
    import duckdb

    return duckdb.connect(config={"threads": 1})


def written(lines: Iterable, sink) -> None:
    """Every line to a buffered file, none kept."""
    for line in lines:
        sink.write(line)


def dicts(program, columns) -> Iterable[dict]:
    """The rows as dictionaries with their keys in order, made the quick way: whole columns to lists, then one zip."""
    def values(name: str):
        if name in program.constants:
            return repeat(program.constants[name])
        kind, items = program.columns[name], np.asarray(columns[name]).tolist()
        return [kind[int(item)] for item in items] if isinstance(kind, tuple) else list(map(str, items)) if kind == "U64_TEXT" else items

    names = sorted([*program.constants, *program.names])
    return (dict(zip(names, row)) for row in zip(*map(values, names)))


def orjson_writers(program, columns, objects: list[dict], sink) -> dict:
    """From the columns, as the engine does it; and from dictionaries that are there already."""
    import orjson

    line = orjson.OPT_APPEND_NEWLINE
    return {"orjson, dicts made from the columns": lambda: written((orjson.dumps(o, option=line) for o in dicts(program, columns)), sink),
            "orjson.dumps alone, dicts there already": lambda: written((orjson.dumps(o, option=line) for o in objects), sink)}


def writers(program, columns, objects: list[dict], sink) -> dict:
    """name -> call that writes all rows to an open file; `objects` have their keys in order."""
    buffer = RowBuffer()
    calls = {"row program": lambda: written(format_chunks(program, columns, buffer), sink)}
    if find_spec("orjson"):
        calls |= orjson_writers(program, columns, objects, sink)
    calls["json.dumps alone, dicts there already"] = lambda: written((canonical_line(o) for o in objects), sink)
    if find_spec("polars"):
        frame = polars_frame(objects)
        calls["polars write_ndjson"] = lambda: frame.write_ndjson(sink)
        if find_spec("duckdb"):
            connection = duckdb_connection()
            connection.register("rows", frame.to_arrow())
            calls["duckdb COPY TO json"] = lambda: connection.execute(f"COPY (SELECT * FROM rows) TO '{sink.name}' (FORMAT json, USE_TMP_FILE false)")
    return calls


def polars_readers(program, data: bytes, objects: list[dict]) -> dict:
    import polars as pl

    schema = polars_frame(objects[:2]).schema
    constants = pl.all_horizontal([pl.col(name) == value for name, value in program.constants.items()]).all()

    def checked():
        frame = pl.read_ndjson(io.BytesIO(data), schema=schema)
        if not frame.select(constants).item() or sum(frame.null_count().row(0)):
            raise ValueError("the rows are not those of the run")
        return frame

    return {"polars, schema": lambda: pl.read_ndjson(io.BytesIO(data), schema=schema), "polars, schema, constants checked": checked}


def duckdb_reader(objects: list[dict], path: Path):
    connection = duckdb_connection()
    kinds = {int: "UBIGINT", float: "DOUBLE", bool: "BOOLEAN", str: "VARCHAR"}
    columns = ", ".join(f"'{name}': '{kinds[type(value)]}'" for name, value in sorted(objects[0].items()))
    return lambda: connection.sql(f"SELECT * FROM read_json('{path}', format='newline_delimited', columns={{{columns}}})").to_arrow_table()


def readers(program, text: np.ndarray, objects: list[dict], folder: Path) -> dict:
    """name -> call that reads all rows; lines are cut beforehand for those that take one at a time."""
    buffer, data = RowBuffer(), text.tobytes()
    lines = data.splitlines()
    calls = {"row program": lambda: parse_rows(program, text, buffer)}
    if find_spec("orjson"):
        import orjson
        calls["orjson.loads alone, dicts thrown away"] = lambda: deque(map(orjson.loads, lines), maxlen=0)
        calls["orjson.loads alone, dicts kept"] = lambda: list(map(orjson.loads, lines))
    calls["json.loads alone, dicts thrown away"] = lambda: deque(map(json.loads, lines), maxlen=0)
    if find_spec("polars"):
        calls |= polars_readers(program, data, objects)
    if find_spec("duckdb"):
        path = folder / "rows.jsonl"
        path.write_bytes(data)
        calls["duckdb read_json, columns given"] = duckdb_reader(objects, path)
    return calls


def schema_check(dataset_id: str, text: np.ndarray):
    """A call that parses the first rows and asks jsonschema about each."""
    validator, lines = contracts().row_validator(dataset_id), text.tobytes().splitlines()[:SAMPLE]

    def call():
        if not all(validator.is_valid(json.loads(line)) for line in lines):
            raise ValueError(f"the rows do not pass the schema of {dataset_id}")

    return call, len(lines)


def same_values(program, columns, objects: list[dict], text: np.ndarray, reading: dict, place: Path) -> None:
    """The benchmark ends here unless every writer writes and every reader reads these rows."""
    assert text.tobytes().decode() == "".join(canonical_json(o) + "\n" for o in objects)
    parsed, bad = parse_rows(program, text)
    assert bad == -1 and all(np.array_equal(parsed[name], columns[name]) for name in program.names)
    with open(place, "w+b") as sink:
        for name, call in writers(program, columns, objects, sink).items():
            sink.seek(0)
            sink.truncate()
            call()
            sink.flush()
            assert [json.loads(line) for line in place.read_bytes().splitlines()] == objects, name
    for name, call in reading.items():
        if name.startswith(("polars", "duckdb")):
            assert len(call()) == len(objects) and (call() if name.startswith("polars") else polars_of(call())).row(7, named=True) == objects[7], name


def polars_of(table):
    import polars as pl

    return pl.from_arrow(table)


def rows_case(case, options) -> list[dict]:
    """Writing and reading of one kind of row."""
    name, dataset_id, program, columns = case(options.rows, np.random.default_rng(1))
    objects, text = list(dicts(program, columns)), format_rows(program, columns)
    with tempfile.TemporaryDirectory() as place, open(os.devnull, "wb") as sink:
        reading = readers(program, text, objects, Path(place))
        same_values(program, columns, objects, text, reading, Path(place, "written"))
        writing = writers(program, columns, objects, sink)
        found = []
        for title, calls in (("write", writing), ("read and check", reading)):
            say(f"alternatives: {title} {name}")
            times = compared(calls, options.rows, options.repeat)
            if title != "write":
                call, count = schema_check(dataset_id, text)
                times |= compared({f"json.loads and jsonschema, {count} rows, scaled": call}, count, 1)
            found.append({"title": f"{title}: {name}, {text.size / options.rows:.0f} bytes a row", "ns": times})
    return found


@kernel
def _negative_binomial(mean, shape, gamma_key, gamma_hi, gamma_lo, poisson_key, poisson_hi, poisson_lo, out):
    "A gamma, then a Poisson variate a merchant, each from the merchant's own substream."
    for i in range(out.size):
        value, _, _, _, _ = gamma_k(shape[i], gamma_key[i], gamma_hi[i], gamma_lo[i])
        out[i], _, _ = poisson_k(mean[i] / shape[i] * value, poisson_key[i], poisson_hi[i], poisson_lo[i])


def engine_sampler(ids: np.ndarray, mean: np.ndarray, shape: np.ndarray):
    """Substream keys of both labels, then the draws."""
    out, master = np.empty(ids.size, np.int64), bytes(range(32))

    def call():
        words = merchant_u64_array(ids)
        _negative_binomial(mean, shape, *substream_keys(master, "gamma_nb", ids, words), *substream_keys(master, "poisson_nb", ids, words), out)
        return out

    return call


def numpy_samplers(ids: np.ndarray, mean: np.ndarray, shape: np.ndarray) -> dict:
    """Three ways to sample the same law with NumPy."""
    keys, parameters = ids.tolist(), list(zip(mean.tolist(), shape.tolist()))

    def one_each():
        found = []
        for key, (m, k) in zip(keys, parameters):
            generator = np.random.Generator(np.random.Philox(key=key))
            found.append(generator.poisson(m / k * generator.standard_gamma(k)))
        return np.array(found)

    def set_anew():
        bits = np.random.Philox(key=0)
        generator, state, found = np.random.Generator(bits), bits.state, []
        for key, (m, k) in zip(keys, parameters):
            state["state"]["key"][0] = key
            bits.state = state
            found.append(generator.poisson(m / k * generator.standard_gamma(k)))
        return np.array(found)

    def in_bulk():
        generator = np.random.Generator(np.random.Philox(key=1))
        return generator.poisson(mean / shape * generator.standard_gamma(shape))

    return {"NumPy Generator(Philox), one a merchant": one_each, "NumPy Generator(Philox), set anew a merchant": set_anew, "NumPy Generator(Philox), in bulk": in_bulk}


def sampling_case(options) -> dict:
    """Negative binomial variates, about as S2 draws them: means 2 to 60, shapes 1 to 20."""
    say("alternatives: sampling")
    n, rng = options.merchants, np.random.default_rng(2)
    ids, mean, shape = np.sort(rng.integers(1, 2**63, n)), rng.uniform(2.0, 60.0, n), rng.uniform(1.0, 20.0, n)
    calls = {"engine, substream keys and exact functions included": engine_sampler(ids, mean, shape), **numpy_samplers(ids, mean, shape)}
    spread = np.sqrt(np.mean(mean + mean**2 / shape) / n)
    for name, call in calls.items():
        assert abs(np.mean(call() - mean)) < 6 * spread, name
    return {"title": "sample: a negative binomial a merchant (gamma, then Poisson)", "ns": compared(calls, n, options.repeat)}


def measure(options: argparse.Namespace) -> dict:
    """All parts, and the ratios that stand for them: the least over the kinds of rows."""
    parts = [*rows_case(hurdle_case, options), *rows_case(trace_case, options), sampling_case(options)]

    def least(title: str, name: str) -> float | None:
        found = [part["ns"][name] / next(iter(part["ns"].values())) for part in parts if part["title"].startswith(title) and name in part["ns"]]
        return min(found, default=None)

    compare = {"rows written: orjson with dicts": ("write", "orjson, dicts made from the columns"), "rows written: orjson.dumps alone": ("write", "orjson.dumps alone, dicts there already"),
               "rows read and checked: orjson.loads alone, dicts kept": ("read", "orjson.loads alone, dicts kept"),
               "rows read and checked: orjson.loads alone, dicts thrown away": ("read", "orjson.loads alone, dicts thrown away")}
    return {"parts": parts, "ratios": {f"{title} / row program": least(*which) for title, which in compare.items()}}


def tables(results: dict) -> list[Table]:
    found = []
    for part in results["parts"]:
        first = next(iter(part["ns"].values()))
        unit = "CPU ns/merchant" if part["title"].startswith("sample") else "CPU ns/row"
        found.append(Table(part["title"], ("with", unit, "ratio to the engine"), [(name, float(round(ns)), ns / first) for name, ns in part["ns"].items()]))
    return [*found, Table("Ratios, the least over the kinds of rows", ("ratio", "value"), list(results["ratios"].items()))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32_768)
    parser.add_argument("--merchants", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    os.environ["POLARS_MAX_THREADS"] = "1"  # polars reads it when it is imported
    benchmark(parser, measure, tables)
