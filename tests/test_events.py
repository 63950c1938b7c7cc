"""Event parts, trace and the logs of a state: round trips in bulk, damage, interruptions, many threads."""
import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from seg1a.core import run as run_module
from seg1a.core.contracts import contracts
from seg1a.core.encoding import canonical_line
from seg1a.core.errors import Seg1aError
from seg1a.core.event_rows import BLOCK, line_blocks
from seg1a.core.events import (COUNTERS, StateLogs, TraceAppender, add_totals, check_rows_against_schema, event_parts, event_program, foreign_files,
                               format_trace, part_path, read_event_part, shard_totals, trace_columns, trace_keys, trace_offset, trace_program,
                               validate_event_part, validate_trace, write_event_part, zero_totals)
from seg1a.core.rows import row_objects
from seg1a.core.run import Lineage, Options, Run
from seg1a.core.shards import Shard, scan_shards
from seg1a.core.tables import publish_outputs

LINEAGE = Lineage(2**64 - 1, "ab" * 32, "cd" * 32, "ef" * 16, 1_700_000_000_000_000_000)
STREAMS = list(contracts().streams())
CODES = {"schema": "schema_violation", "replay": "replay_mismatch"}


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run", tmp_path / "pack", LINEAGE, Options(), "0" * 40)


def random_columns(stream_id: str, rows: int, seed: int = 0) -> dict:
    "Columns that pass the schema of the stream, ids ascending."
    rng, program = np.random.default_rng(seed), event_program(stream_id, LINEAGE)
    columns = {}
    for name, kind in program.columns.items():
        if isinstance(kind, tuple):
            columns[name] = rng.integers(0, len(kind), rows).astype(bool if kind == (False, True) else np.uint8)
        elif kind == "I64":
            columns[name] = rng.integers(2, 2**40, rows)
        elif kind.startswith("F64"):
            columns[name] = np.clip(rng.random(rows), 1e-300, 0.99)
        else:
            columns[name] = rng.integers(0, 2**64, rows, dtype=np.uint64)
    columns["merchant_id"] = np.sort(rng.integers(1, 2**63, rows))
    columns["draws"] = columns["blocks"] = (rng.random(rows) < 0.5).astype(np.uint64)
    return columns


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and np.array_equal(a[n], b[n], equal_nan=a[n].dtype == np.float64) for n in a)


@pytest.mark.parametrize("stream_id", STREAMS)
def test_every_stream_is_written_as_canonical_json_that_passes_its_schema_and_is_read_back(run, stream_id):
    columns = random_columns(stream_id, 9001)
    record = write_event_part(run, stream_id, 12, columns)
    data = (run.root / record.path).read_bytes()
    program = event_program(stream_id, LINEAGE)
    assert record.rows == 9001 and record.size_bytes == len(data)
    assert contracts().identify(record.path) == (contracts().streams()[stream_id].dataset_id, {
        "seed": str(LINEAGE.seed), "parameter_hash": LINEAGE.parameter_hash, "run_id": LINEAGE.run_id,
        "state": str(contracts().streams()[stream_id].state), "shard": "00012"})
    sample = {name: column[:300] for name, column in columns.items()}
    assert data.startswith(b"".join(map(canonical_line, row_objects(program, sample))))
    assert check_rows_against_schema(stream_id, data, rows=range(200)) == []
    assert same(read_event_part(run, stream_id, 12), {name: columns[name] for name in program.names})
    assert validate_event_part(run, stream_id, 12, columns, CODES) == []


def test_parts_of_two_states_share_a_folder_and_are_told_apart(run):
    for stream_id, shards in [("poisson_component_nb", (0, 3, 100_000)), ("poisson_component_ztp", (3,))]:
        for shard in shards:
            write_event_part(run, stream_id, shard, random_columns(stream_id, 2))
    assert [i for i, _ in event_parts(run, "poisson_component_nb")] == [0, 3, 100_000]
    assert [i for i, _ in event_parts(run, "poisson_component_ztp")] == [3]
    folder = part_path(run, "poisson_component_nb", 0).parent
    for name in ("part-00000.jsonl", "part-s2-0.jsonl", "part-s7-00000.jsonl", "notes.txt"):
        (folder / name).touch()
    (folder / "sub").mkdir()
    assert sorted(p.name for p in foreign_files(run, "poisson_component_nb")) == ["notes.txt", "part-00000.jsonl", "part-s2-0.jsonl", "part-s7-00000.jsonl", "sub"]


def test_blocks_cut_at_line_ends_whatever_the_lines(tmp_path):
    rng = np.random.default_rng(5)
    for lengths in ([BLOCK + 100], [BLOCK - 1, 5, BLOCK], rng.integers(1, 70_000, 400), [1] * 1000, []):
        data = b"".join(b"x" * (n - 1) + b"\n" for n in lengths) + b"tail"
        (tmp_path / "f").write_bytes(data)
        blocks = [block.tobytes() for block in line_blocks(tmp_path / "f")]
        assert b"".join(blocks) == data
        if all(n < 60_000 for n in lengths):
            assert all(block.endswith(b"\n") for block in blocks[:-1])


@pytest.mark.parametrize("content", [b"x" * (BLOCK + 7), b"\n" * 1000, b"{}\n", b"\x00" * 5000 + b"\n"])
def test_a_hostile_part_is_refused(run, content):
    path = part_path(run, "nb_final", 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(Seg1aError, match="E_RNG_ENVELOPE") as error:
        read_event_part(run, "nb_final", 0)
    assert error.value.detail["row"] == 0
    assert validate_event_part(run, "nb_final", 0, random_columns("nb_final", 3), CODES)


def test_a_bad_row_far_into_a_part_is_named(run):
    columns = random_columns("hurdle_bernoulli", 30_000)
    write_event_part(run, "hurdle_bernoulli", 0, columns)
    path = part_path(run, "hurdle_bernoulli", 0)
    lines = path.read_bytes().splitlines(keepends=True)
    for row in (0, 14_000, 29_999):
        damaged = list(lines)
        damaged[row] = damaged[row].replace(b'"seed":', b'"seed": ')
        path.write_bytes(b"".join(damaged))
        with pytest.raises(Seg1aError) as error:
            read_event_part(run, "hurdle_bernoulli", 0)
        assert error.value.detail["row"] == row
        findings = validate_event_part(run, "hurdle_bernoulli", 0, columns, CODES)
        assert [(f.code, f.row, f.merchant_id) for f in findings] == [("schema_violation", row, int(columns["merchant_id"][row]))]


def test_every_changed_byte_of_a_part_is_found(run):
    columns = random_columns("ztp_final", 4)
    write_event_part(run, "ztp_final", 0, columns)
    path = part_path(run, "ztp_final", 0)
    good = path.read_bytes()
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 1]) + good[i + 1:])
        assert validate_event_part(run, "ztp_final", 0, columns, CODES), i
    path.write_bytes(good)
    assert validate_event_part(run, "ztp_final", 0, columns, CODES) == []


def test_threads_share_no_memory(run):
    "Many parts of several streams at once: each file is what a single thread writes, and reads back."
    jobs = [(stream_id, shard) for shard in range(6) for stream_id in STREAMS]

    def work(job):
        stream_id, shard = job
        columns = random_columns(stream_id, 500 + 700 * shard, seed=shard)
        write_event_part(run, stream_id, shard, columns)
        return same(read_event_part(run, stream_id, shard), {n: columns[n] for n in event_program(stream_id, LINEAGE).names}) and \
            validate_event_part(run, stream_id, shard, columns, CODES) == []

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, jobs))


# ---------------------------------------------------------------- trace

def random_trace(state: int, rows: int, seed: int = 0):
    "Events of all keys of a state in a random order of emission."
    rng, keys = np.random.default_rng(seed), trace_keys(state)
    choice = rng.integers(0, len(keys), rows)
    parts = []
    for key in range(len(keys)):
        places = np.flatnonzero(choice == key)
        words = {name: rng.integers(0, 2**64, places.size, dtype=np.uint64) for name in COUNTERS}
        words |= {name: rng.integers(0, 50, places.size, dtype=np.uint64) for name in ("draws", "blocks")}
        parts.append((key, words, places))
    return trace_columns(parts)


def python_trace(state: int, columns) -> bytes:
    "The same rows from plain dictionaries."
    keys, totals, lines = trace_keys(state), {}, []
    for i, choice in enumerate(columns.choice.tolist()):
        stream = contracts().streams()[keys[choice]]
        total = totals.setdefault(choice, [0, 0, 0])
        for j, step in enumerate((int(columns.draws[i]), int(columns.blocks[i]), 1)):
            total[j] += step
        lines.append(canonical_line({
            "ts_utc": LINEAGE.ts_utc, "run_id": LINEAGE.run_id, "seed": LINEAGE.seed, "module": stream.module, "substream_label": stream.label,
            **{name: int(word[i]) for name, word in columns.counters.items()},
            "draws_total": total[0], "blocks_total": total[1], "events_total": total[2]}))
    return b"".join(lines)


@pytest.mark.parametrize("state", [1, 2, 4])
@pytest.mark.parametrize("rows", [0, 1, 3, 9000])
def test_trace_rows_are_the_running_totals(state, rows):
    columns, keys = random_trace(state, rows), trace_keys(state)
    program = trace_program(keys, LINEAGE)
    expected = python_trace(state, columns)
    assert format_trace(program, columns, zero_totals(len(keys))).tobytes() == expected
    before, parts = zero_totals(len(keys)), []
    for start in range(0, rows, 1234):
        part = columns[start:start + 1234]
        parts.append(format_trace(program, part, before).tobytes())
        before = add_totals(before, shard_totals(part, len(keys)))
    assert b"".join(parts) == expected


def test_scan_shards_and_the_appender_write_the_same(run):
    "Totals handed on by a scan over shards with several workers, or kept by the appender: one file."
    shards = [random_trace(2, 100 * i + 1, seed=i) for i in range(9)]
    keys = trace_keys(2)
    program = trace_program(keys, LINEAGE)
    results = []
    for workers in (1, 3):
        with TraceAppender(run, 2) as appender:
            scan = scan_shards(lambda shard: SimpleNamespace(columns=shards[shard.index], totals=shard_totals(shards[shard.index], len(keys))),
                               lambda shard, part, before: format_trace(program, part.columns, before),
                               [Shard(i, i, i + 1) for i in range(9)], workers, zero_totals(len(keys)), add_totals)
            for text in scan:
                appender.append(text)
        results.append(appender.record)
    with TraceAppender(run, 2) as appender:
        for columns in shards:
            appender.append(columns)
    assert results == [appender.record] * 2 and appender.totals[:, 2].sum() == appender.record.rows
    findings, totals = validate_trace(run, 2, shards, CODES)
    assert findings == [] and (totals == appender.totals).all()


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 0, 2), (0, 5, 0), (7, 700, 1), (1500, 2, 900), (0, 0, 3)])
def test_states_are_found_by_bisection_and_replaced(run, sizes):
    shards = {state: random_trace(state, n, seed=n) for state, n in zip((1, 2, 4), sizes)}
    texts = {state: python_trace(state, columns) for state, columns in shards.items()}
    for state, columns in shards.items():
        with TraceAppender(run, state) as appender:
            appender.append(columns)
    path = run.path("rng_trace_log")
    whole = b"".join(texts.values())
    assert path.read_bytes() == whole and appender.record.rows == sum(sizes)
    assert [trace_offset(path, state) for state in (1, 2, 3, 4, 5)] == [0, len(texts[1]), len(texts[1] + texts[2]), len(texts[1] + texts[2]), len(whole)]
    for state, columns in shards.items():
        assert validate_trace(run, state, [columns], CODES)[0] == []
    with TraceAppender(run, 2) as appender:
        appender.append(shards[2])
    assert (path.read_bytes() if path.exists() else b"") == texts[1] + texts[2]


def test_an_exception_in_the_appender_leaves_the_old_trace(run):
    with TraceAppender(run, 1) as appender:
        appender.append(random_trace(1, 10))
    before = appender.path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        with TraceAppender(run, 2) as appender:
            appender.append(random_trace(2, 10))
            raise ZeroDivisionError
    assert appender.path.read_bytes() == before and os.listdir(appender.path.parent) == [appender.path.name]


@pytest.mark.parametrize("damage", ["lost", "doubled", "total", "counter", "swapped", "lineage", "junk", "truncated", "foreign"])
@pytest.mark.parametrize("row", [0, 4095, 4096, 8999])
def test_trace_damage_is_found_and_named(run, damage, row):
    shards = [random_trace(2, 4500, seed=1), random_trace(2, 4500, seed=2)]
    with TraceAppender(run, 2) as appender:
        for columns in shards:
            appender.append(columns)
    lines = appender.path.read_bytes().splitlines(keepends=True)
    other = row - 1 if row else row + 1
    value = json.loads(lines[row])
    if damage == "lost":
        del lines[row]
    elif damage == "doubled":
        lines.insert(row, lines[row])
    elif damage == "total":
        lines[row] = canonical_line({**value, "draws_total": value["draws_total"] + 1})
    elif damage == "counter":
        lines[row] = canonical_line({**value, "rng_counter_after_lo": value["rng_counter_after_lo"] ^ 1})
    elif damage == "swapped":
        lines[row], lines[other] = lines[other], lines[row]
    elif damage == "lineage":
        lines[row] = canonical_line({**value, "run_id": "0" * 32})
    elif damage == "junk":
        lines[row] = b"junk\n"
    elif damage == "truncated":
        lines[row:] = [lines[row][:50]]
    elif damage == "foreign":
        lines[row] = lines[row].replace(b"1A.n", b"2B.n")
    appender.path.write_bytes(b"".join(lines))
    findings, _ = validate_trace(run, 2, shards, CODES)
    assert findings and {f.code for f in findings} <= set(CODES.values())


# ---------------------------------------------------------------- all logs of a state

def write_state(run, shards: int = 3) -> StateLogs:
    "Two streams and the trace, three shards."
    with StateLogs(run, 2) as logs:
        for shard in range(shards):
            gamma, final = random_columns("gamma_component", 50, seed=shard), random_columns("nb_final", 20, seed=shard)
            logs.write("gamma_component", shard, gamma)
            logs.write("nb_final", shard, final)
            logs.append_trace(trace_columns([(0, gamma, np.arange(50)), (2, final, np.arange(50, 70))]))
    return logs


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_an_interruption_at_any_rename_is_healed_by_running_again(run, monkeypatch):
    expected = None
    logs = write_state(run)
    expected = tree(run.root)
    assert sorted(expected) == [record.path for record in logs.records] and len(expected) == 7
    real = os.replace
    for cut in range(14):
        shutil.rmtree(run.root)
        calls = 0

        def replace(source, target, cut=cut):
            nonlocal calls
            calls += 1
            if calls > cut:
                raise OSError(28, "No space left on device")
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(run_module.os, "replace", replace)
            try:
                write_state(run)
            except Seg1aError as error:
                assert error.code == "E_WRITE_FAIL"
        partial = tree(run.root)
        assert all(expected[name] == data for name, data in partial.items())  # whole files or none
        if not calls > cut:
            assert partial == expected
        elif calls > cut:
            assert run.relative(run.path("rng_trace_log")) not in partial  # the trace comes last
        assert write_state(run).records == logs.records and tree(run.root) == expected


def test_nothing_is_published_when_one_part_is_in_the_way(run):
    write_event_part(run, "nb_final", 2, random_columns("nb_final", 20, seed=77))
    before = tree(run.root)
    with pytest.raises(Seg1aError, match="E_PARTITION_EXISTS"):
        write_state(run)
    assert tree(run.root) == before


def test_a_state_without_events_leaves_no_file(run):
    with StateLogs(run, 4) as logs:
        assert logs.write("ztp_final", 0, random_columns("ztp_final", 0)) is None
        logs.append_trace(trace_columns([(0, random_columns("ztp_final", 0), None)]))
    assert logs.records == [] and tree(run.root) == {}


# ---------------------------------------------------------------- a trace that grows

def one_shard(stream_id: str, seed: int, rows: int = 40):
    return trace_columns([(0, random_columns(stream_id, rows, seed=seed), None)])


def publish_first_state(run) -> bytes:
    "The trace of S1, with the list of outputs that a state leaves; its bytes."
    with StateLogs(run, 1) as logs:
        logs.append_trace(one_shard("hurdle_bernoulli", 1))
    publish_outputs(run, 1, logs.records)
    return run.path("rng_trace_log").read_bytes()


def grow(run, fail: bool = False) -> StateLogs:
    with StateLogs(run, 2) as logs:
        logs.append_trace(one_shard("gamma_component", 2, rows=9_000))
        if fail:
            raise Seg1aError("E_INTERNAL", "on the way")
    return logs


@pytest.mark.parametrize("direct", ["0", "1"])
def test_a_later_state_writes_behind_the_rows_that_are_there(run, monkeypatch, direct):
    monkeypatch.setenv("SEG1A_DIRECT_IO", direct)
    before = publish_first_state(run)
    path = run.path("rng_trace_log")
    place = path.stat().st_ino
    record = grow(run).records[-1]
    data = path.read_bytes()
    assert data.startswith(before) and path.stat().st_ino == place  # not copied
    assert record.sha256 == hashlib.sha256(data).hexdigest() and record.size_bytes == len(data) and record.rows == data.count(b"\n") == 9_040


def test_a_state_that_fails_cuts_its_rows_off_again(run):
    before = publish_first_state(run)
    with pytest.raises(Seg1aError, match="E_INTERNAL"):
        grow(run, fail=True)
    assert run.path("rng_trace_log").read_bytes() == before


def test_a_full_disk_cuts_the_rows_off_again(run, monkeypatch):
    before = publish_first_state(run)
    real = os.pwrite

    def full(handle, data, offset):
        if offset > 2_000_000:
            raise OSError(28, "No space left on device")
        return real(handle, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(Seg1aError, match="E_WRITE_FAIL"):
            grow(run)
    assert run.path("rng_trace_log").read_bytes() == before


@pytest.mark.parametrize("rest", [b"", b'{"half', b"\0" * 5000])
def test_what_a_killed_attempt_left_is_cut_off(run, rest):
    publish_first_state(run)
    expected = grow(run)
    path = run.path("rng_trace_log")
    data = path.read_bytes()
    path.write_bytes(data[:-1000] + rest)
    assert grow(run).records == expected.records and path.read_bytes() == data


@pytest.mark.parametrize("damage", ["changed", "shorter", "gone"])
def test_no_state_builds_on_a_trace_that_was_changed(run, damage):
    before = publish_first_state(run)
    path = run.path("rng_trace_log")
    changed = {"changed": before.replace(b'"events_total":3,', b'"events_total":4,'), "shorter": before[:-500], "gone": b""}[damage]
    assert changed != before
    path.write_bytes(changed)
    if damage == "gone":
        path.unlink()
    with pytest.raises(Seg1aError, match="E_RNG_ENVELOPE"):
        grow(run)
    assert (path.read_bytes() if path.exists() else b"") == changed
