"""Known answers for log rows: the exact texts of s0.json, and every row of the S2 and S4 cases written by the row programs."""
import json
from pathlib import Path

import numpy as np
import pytest

from seg1a.core.contracts import contracts
from seg1a.core.encoding import canonical_json, canonical_line, read_json
from seg1a.core.events import (COUNTERS, audit_row, event_program, format_trace, shard_totals, trace_columns, trace_keys, trace_program,
                               zero_totals)
from seg1a.core.rows import ABSENT, format_rows, parse_rows
from seg1a.core.run import Lineage

VECTORS = Path(__file__).parent / "vectors"
S0 = json.loads((VECTORS / "s0.json").read_text())
S1_S2 = json.loads((VECTORS / "s1_s2.json").read_text())
S4 = json.loads((VECTORS / "s4.json").read_text())
ENVELOPE = (*COUNTERS, "blocks", "draws")
T_NS = S0["lineage"]["t_ns"]


def lineage_of(row: dict, start_time_ns: int = T_NS) -> Lineage:
    return Lineage(row["seed"], row["parameter_hash"], row["manifest_fingerprint"], row["run_id"], start_time_ns)


def stream_of(row: dict) -> str:
    "The stream of an event row of the vectors, by label, context and payload."
    names = set(row)
    for stream in contracts().streams().values():
        optional = {name for name, values in stream.choices.items() if None in values}
        if (stream.module, stream.label, stream.context) == (row["module"], row["substream_label"], row.get("context")):
            wanted = {*stream.columns, *stream.constants}
            if wanted - optional <= names and all(row.get(k) == v for k, v in stream.constants.items()):
                if stream.id != "poisson_component_ztp" or "lambda" in names:
                    return stream.id
    raise AssertionError(f"no stream for {row}")


def columns_of(program, rows: list[dict]) -> dict:
    "The columns that a program needs to write these rows."
    columns = {}
    for name in program.names:
        kind = program.columns[name]
        if isinstance(kind, tuple):
            texts = [None if value is ABSENT else canonical_json(value) for value in kind]
            columns[name] = np.array([texts.index(canonical_json(row[name]) if name in row else None) for row in rows], np.uint8)
        elif kind.startswith("F64"):
            columns[name] = np.array([np.nan if row[name] is None else row[name] for row in rows], np.float64)
        else:
            columns[name] = np.array([int(row[name]) for row in rows], np.int64 if kind == "I64" else np.uint64)
    return columns


def check_rows(rows: list[dict]) -> None:
    "Each row, written by the program of its stream, is its canonical text with the run's clock; it passes the schema and reads back."
    for stream_id in dict.fromkeys(map(stream_of, rows)):
        chosen = [row for row in rows if stream_of(row) == stream_id]
        lineage = lineage_of(chosen[0])
        program = event_program(stream_id, lineage)
        columns = columns_of(program, chosen)
        text = format_rows(program, columns).tobytes()
        assert text == b"".join(canonical_line({**row, "ts_utc": lineage.ts_utc}) for row in chosen)
        validator = contracts().row_validator(contracts().streams()[stream_id].dataset_id)
        assert all(validator.is_valid(read_json(line, stream_id)) for line in text.splitlines())
        back, bad = parse_rows(program, text)
        assert bad == -1 and all(np.array_equal(back[name], columns[name], equal_nan=columns[name].dtype == np.float64) for name in columns)


def test_vectors_audit_row():
    row = json.loads(S0["log_rows"]["audit"])
    written = audit_row(lineage_of(row), S0["lineage"]["git_commit"], row["code_digest"])
    assert written == S0["log_rows"]["audit"].encode() + b"\n"
    assert contracts().row_validator("rng_audit_log").is_valid(row)


def test_vectors_lineage_of_the_rows():
    row = json.loads(S0["log_rows"]["audit"])
    assert row["ts_utc"] == lineage_of(row).ts_utc
    assert {k: row[k] for k in ("seed", "parameter_hash", "manifest_fingerprint", "run_id")} == {k: S0["lineage"][k] for k in (
        "seed", "parameter_hash", "manifest_fingerprint", "run_id")}


@pytest.mark.parametrize("name", ["envelope_consuming", "envelope_non_consuming"])
def test_vectors_envelope(name):
    "The event with this envelope, its payload taken out, is the envelope's exact text."
    envelope = json.loads(S0["log_rows"][name])
    u = float.fromhex(S0["log_rows"]["event_u"])
    payload = {"merchant_id": 1, "pi": 1.0, "u": None, "is_multi": True, "deterministic": True}
    if envelope["blocks"]:
        payload = {"merchant_id": 1, "pi": 0.9, "u": u, "is_multi": True, "deterministic": False}
    program = event_program("hurdle_bernoulli", lineage_of(envelope))
    row = json.loads(format_rows(program, columns_of(program, [{**envelope, **payload}])).tobytes())
    assert {k: row.pop(k) for k in payload} == payload
    assert canonical_json(row) == S0["log_rows"][name]


def test_vectors_trace_rows():
    envelopes = [json.loads(S0["log_rows"][name]) for name in ("envelope_consuming", "envelope_non_consuming")]
    lineage = lineage_of(envelopes[0])
    program = trace_program(trace_keys(1), lineage)
    words = [{name: np.array([int(e[name])], np.uint64) for name in ENVELOPE} for e in envelopes]
    first, second = (trace_columns([(0, w, None)]) for w in words)
    assert format_trace(program, first, zero_totals(1)).tobytes() == S0["log_rows"]["trace_1"].encode() + b"\n"
    assert format_trace(program, second, shard_totals(first, 1)).tobytes() == S0["log_rows"]["trace_2"].encode() + b"\n"


def s2_rows() -> list[tuple[str, list[dict]]]:
    cases = [(str(case["merchant_id"]), case["events"]) for case in S1_S2["nb_merchant"]["cases"]]
    expected = S1_S2["end_to_end"]["expected"]
    return cases + [(name, expected[name]) for name in expected if name in ("hurdle", "gamma", "poisson", "nb_final")]


@pytest.mark.parametrize("rows", [pytest.param(rows, id=name) for name, rows in s2_rows()])
def test_vectors_s1_s2_events(rows):
    assert rows
    check_rows(rows)


S4_SMALL = [run for run in S4["runs"] if run.get("files_without_ts_utc")]


@pytest.mark.parametrize("run", [pytest.param(run, id=run["name"]) for run in S4_SMALL])
def test_vectors_s4_events(run):
    for rows in run["files_without_ts_utc"].values():
        check_rows(rows or [])


@pytest.mark.parametrize("run", [pytest.param(run, id=run["name"]) for run in S4_SMALL if run.get("trace_without_ts_utc")])
def test_vectors_s4_trace(run):
    "The trace rows follow from their counters and the steps of their totals."
    rows = run["trace_without_ts_utc"]
    lineage = Lineage(**run["lineage"], start_time_ns=T_NS)
    words = {name: np.array([row[name] for row in rows], np.uint64) for name in COUNTERS}
    words |= {name: np.diff([0, *(row[f"{name}_total"] for row in rows)]).astype(np.uint64) for name in ("draws", "blocks")}
    text = format_trace(trace_program(trace_keys(4), lineage), trace_columns([(0, words, None)]), zero_totals(1)).tobytes()
    assert text == b"".join(canonical_line({**row, "ts_utc": lineage.ts_utc}) for row in rows)
    assert all(contracts().row_validator("rng_trace_log").is_valid(read_json(line, "trace")) for line in text.splitlines())


def test_vectors_s2_trace_final():
    "The events of all merchants, put in emission order, end every key with the totals and counters of the vectors."
    expected = S1_S2["end_to_end"]["expected"]
    place = {}
    for row in expected["nb_final"]:
        place[row["merchant_id"], 10**6, 2] = row
    attempts = {}
    for order, name in enumerate(("gamma", "poisson")):
        for row in expected[name]:
            attempts[order, row["merchant_id"]] = attempt = attempts.get((order, row["merchant_id"]), 0) + 1
            place[row["merchant_id"], attempt, order] = row
    rows = [place[key] for key in sorted(place)]
    keys = trace_keys(2)
    labels = [contracts().streams()[key].label for key in keys]
    parts = []
    for choice, label in enumerate(labels):
        places = [i for i, row in enumerate(rows) if row["substream_label"] == label]
        words = {name: np.array([int(rows[i][name]) for i in places], np.uint64) for name in ENVELOPE}
        parts.append((choice, words, np.array(places, np.int64)))
    program = trace_program(keys, lineage_of(rows[0]))
    text = format_trace(program, trace_columns(parts), zero_totals(len(keys))).tobytes()
    last = {}
    for line in text.splitlines():
        row = json.loads(line)
        last[f"{row['module']}|{row['substream_label']}"] = row
    for key, final in expected["trace_final"].items():
        if key in last:
            assert {name: last[key][name] for name in final} == final
    assert len(last) == len(keys) and len(rows) + len(expected["hurdle"]) == expected["trace_row_count"]
