"""The fast readers against damage: whatever the bytes, they accept exactly what the writer writes, and touch nothing behind the end.

An oracle in plain Python (`json` and the contract of the row program, no kernel) says of every line whether the writer could have written it."""
import ctypes
import json
import mmap
import os
import re
import sys
from functools import cache, lru_cache

import numpy as np
import pytest
from fuzz_support import Target, damaged, fuzzed
from test_events import random_columns as schema_columns

from seg1a.core.contracts import contracts
from seg1a.core.encoding import canonical_json
from seg1a.core.errors import Seg1aError
from seg1a.core.event_checks import validate_event_part, validate_trace
from seg1a.core.event_rows import COUNTERS, event_program, part_path, read_event_part, write_event_part
from seg1a.core.float_text import FLOAT_WIDTH, SLACK, take_float, take_u64
from seg1a.core.rows import ABSENT, RowBuffer, format_rows, parse_rows
from seg1a.core.run import Lineage, Options, Run
from seg1a.core.trace import TraceAppender, TraceColumns, trace_keys, trace_program

LINEAGE = Lineage(2**64 - 1, "ab" * 32, "cd" * 32, "ef" * 16, 1_700_000_000_000_000_000)
STREAMS = list(contracts().streams())
TRACES = [1, 2, 4]
CODES = {"schema": "schema_violation", "replay": "replay_mismatch"}
ROWS = 3


def random_columns(program, rows: int, rng) -> dict:
    "Columns with values of every length, extremes included."
    columns = {}
    for name, kind in program.columns.items():
        bits = rng.integers(0, 2**64, rows, dtype=np.uint64) >> rng.integers(0, 64, rows, dtype=np.uint64)
        if isinstance(kind, tuple):
            columns[name] = rng.integers(0, len(kind), rows).astype(bool if kind == (False, True) else np.uint8)
        elif kind.startswith("F64"):
            wild = rng.integers(0, 2**64, rows, dtype=np.uint64).view(np.float64)
            columns[name] = np.where(np.isfinite(wild) & (rng.random(rows) < 0.4), wild, np.round(rng.random(rows), int(rng.integers(1, 18))))
            columns[name][rng.random(rows) < 0.2] = np.nan if kind == "F64_OR_NULL" else -0.0
        else:
            columns[name] = (bits >> np.uint64(1)).view(np.int64) if kind == "I64" else bits
    return columns


@cache
def programs() -> dict:
    "name -> row program of every event stream and of the trace of every state."
    events = {stream_id: event_program(stream_id, LINEAGE) for stream_id in STREAMS}
    return events | {f"trace of S{state}": trace_program(trace_keys(state), LINEAGE) for state in TRACES}


# ---------------------------------------------------------------- the oracle

def same(a, b) -> bool:
    "True for the same JSON scalar: 1, 1.0 and true are three."
    return type(a) is type(b) and a == b


def is_value(kind, value) -> bool:
    "True when a column of this kind can hold this JSON value."
    if isinstance(kind, tuple):
        return any(same(entry, value) for entry in kind)
    if kind == "U64_TEXT":
        return isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]{0,19}", value) is not None and int(value) < 2**64
    if kind in ("U64", "I64"):
        return type(value) is int and 0 <= value < 2 ** (64 if kind == "U64" else 63)
    return type(value) is float or (kind == "F64_OR_NULL" and value is None)


@lru_cache(maxsize=256)
def is_row(name: str, line: bytes) -> bool:
    "True when the writer could have written this line (without its LF)."
    try:
        value = json.loads(line.decode("ascii"))
        if not isinstance(value, dict) or canonical_json(value).encode() != line:
            return False
    except (ValueError, RecursionError, Seg1aError):
        return False
    constants, columns = programs()[name].constants, programs()[name].columns
    optional = {column for column, kind in columns.items() if isinstance(kind, tuple) and ABSENT in kind}
    keys = constants.keys() | columns.keys()
    return keys - optional <= value.keys() <= keys and all(same(value[key], constant) for key, constant in constants.items()) and \
        all(is_value(kind, value[column]) for column, kind in columns.items() if column in value)


def good_rows(name: str, data: bytes) -> tuple[int, bool]:
    "(rows from the start that the writer could have written, whether that is all of the bytes)."
    lines = data.split(b"\n")
    for i, line in enumerate(lines[:-1]):
        if not is_row(name, line):
            return i, False
    return len(lines) - 1, lines[-1] == b""


# ---------------------------------------------------------------- memory that ends where the data ends

class GuardedMemory:
    "Pages followed by one that cannot be touched: a read behind the end of the data ends the process."

    def __init__(self, size: int):
        page = mmap.PAGESIZE
        self._pages = mmap.mmap(-1, (-(-size // page) + 1) * page)
        self._bytes = np.frombuffer(self._pages, np.uint8)
        self.stop = self._bytes.size - page
        if sys.platform == "linux":
            done = ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(self._bytes.ctypes.data + self.stop), ctypes.c_size_t(page), 0)
            assert done == 0, os.strerror(ctypes.get_errno())

    def holding(self, data: bytes) -> np.ndarray:
        "The data at the very end."
        room = self._bytes[self.stop - len(data):self.stop]
        room[:] = np.frombuffer(data, np.uint8)
        return room


def check_reader(name: str, data: bytes, memory: GuardedMemory, buffer: RowBuffer) -> bool:
    "Whether all was accepted; fails unless the reader and the oracle agree and the accepted rows are these bytes."
    program = programs()[name]
    columns, bad = parse_rows(program, memory.holding(data), buffer)
    rows, whole = good_rows(name, data)
    assert bad == (-1 if whole else rows), (name, bad, rows, whole, data)
    assert all(len(column) == rows for column in columns.values()), (name, data)
    end = len(b"\n".join(data.split(b"\n", rows)[:rows])) + (rows > 0)
    assert format_rows(program, columns).tobytes() == data[:end], (name, data)
    return whole


class EventRows:
    "Damaged rows of every stream in turn, with other values now and then."

    def __init__(self):
        self.memory, self.buffer, self.goods, self.made = GuardedMemory(1 << 16), RowBuffer(), {}, 0

    def make(self, rng) -> tuple[str, bytes]:
        names = list(programs())
        if self.made % 500 < len(names):
            name = names[self.made % 500]
            self.goods[name] = format_rows(programs()[name], random_columns(programs()[name], ROWS, rng)).tobytes()
            assert check_reader(name, self.goods[name], self.memory, self.buffer)
        name = names[self.made % len(names)]
        self.made += 1
        return name, damaged(self.goods[name], rng)

    def examine(self, made: tuple[str, bytes]) -> bool:
        return check_reader(*made, self.memory, self.buffer)


def event_rows() -> Target:
    "The fast reader of event and trace rows."
    rows = EventRows()
    return Target("event rows", rows.make, rows.examine)


@pytest.mark.parametrize("damages", [10_000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_of_thousands_of_damages_only_what_the_writer_writes_is_accepted(damages):
    tally = fuzzed(event_rows(), 20251101, damages)
    assert not tally.findings
    assert 0.01 * damages < tally.accepted < 0.3 * damages  # other digits, whole lines moved: the damage is neither too wild nor too tame


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_two_million_damages(seed):
    assert not fuzzed(event_rows(), [7, seed], 50_000).findings


# ---------------------------------------------------------------- numbers

def test_damaged_number_texts_are_read_only_when_python_writes_them_so():
    rng, memory, scratch = np.random.default_rng(3), GuardedMemory(1 << 12), np.empty(FLOAT_WIDTH + SLACK, np.uint8)
    accepted = 0
    for i in range(10_000):
        x = float(rng.integers(0, 2**64, dtype=np.uint64).view(np.float64)) if i % 2 else round(float(rng.random()) * 10.0 ** int(rng.integers(-6, 18)), int(rng.integers(0, 9)))
        text = damaged((repr(x) if x - x == 0 else "0.1").encode() + b"\n", rng)[:400]
        data = memory.holding(text)
        bits, end = take_float(data, 0, len(text), scratch)
        if end >= 0:
            taken = text[:end].decode("ascii")
            assert repr(float(taken)) == taken and np.float64(taken).view(np.uint64) == np.uint64(bits), text
            accepted += 1
        word, end = take_u64(data, 0, len(text))
        assert end == -1 or text[:end] == b"%d" % int(word), text
        if re.fullmatch(rb"0|[1-9][0-9]{0,18}", text):
            assert (int(word), end) == (int(text), len(text))
    assert 1000 < accepted < 9_500


# ---------------------------------------------------------------- files

@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run", tmp_path / "pack", LINEAGE, Options(), "0" * 40)


@pytest.mark.parametrize("stream_id", STREAMS)
def test_a_damaged_part_is_refused_by_the_reader_and_found_by_the_replay(run, stream_id):
    rng, program = np.random.default_rng(STREAMS.index(stream_id)), event_program(stream_id, LINEAGE)
    columns = schema_columns(stream_id, ROWS)
    write_event_part(run, stream_id, 0, columns)
    path = part_path(run, stream_id, 0)
    good = path.read_bytes()
    for _ in range(150):
        data = damaged(good, rng)
        path.write_bytes(data)
        rows, whole = good_rows(stream_id, data)
        if whole:
            assert format_rows(program, read_event_part(run, stream_id, 0)).tobytes() == data
        else:
            with pytest.raises(Seg1aError, match="E_RNG_ENVELOPE") as error:
                read_event_part(run, stream_id, 0)
            assert error.value.detail["row"] == rows
        findings = validate_event_part(run, stream_id, 0, columns, CODES)
        assert bool(findings) == (data != good), data
        assert {finding.code for finding in findings} <= set(CODES.values())


@pytest.mark.parametrize("state", TRACES)
def test_a_damaged_trace_is_found_by_the_replay(run, state):
    rng, keys = np.random.default_rng(state), trace_keys(state)
    words = {name: rng.integers(0, 2**64, ROWS, dtype=np.uint64) for name in COUNTERS}
    columns = TraceColumns(rng.integers(0, len(keys), ROWS).astype(np.uint8), words, *rng.integers(0, 50, (2, ROWS)).astype(np.uint64))
    with TraceAppender(run, state) as appender:
        appender.append(columns)
    good = appender.path.read_bytes()
    for _ in range(250):
        data = damaged(good, rng)
        appender.path.write_bytes(data)
        findings, _ = validate_trace(run, state, [columns], CODES)
        assert bool(findings) == (data != good), data
        assert {finding.code for finding in findings} <= set(CODES.values())
