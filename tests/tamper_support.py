"""Somebody who can change any row of a finished run, and rehash whatever vouches for it.

An `Edit` says which files of a run become which bytes; a `Forger` puts them there, fits sidecars, lists of outputs, copies, indexes and
flags with the project's own builders, so that the seal holds, and takes all of it back afterwards.
"""

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seg1a.core.contracts import contracts
from seg1a.core.encoding import canonical_line, pretty_json
from seg1a.core.events import trace_offset
from seg1a.core.flags import FLAG, build_index, write_flag
from seg1a.core.run import Run, open_run
from seg1a.core.tables import OutputRecord, publish_outputs, read_outputs
from seg1a.operations.seal import fold_s0, seal

TOTALS = ("blocks_total", "draws_total", "events_total")


@dataclass(frozen=True)
class Edit:
    """One forgery: `state` whose validator has to find it, and the new content of files by path relative to the run root."""

    name: str
    state: int
    change: Callable[[], dict[str, bytes]]


class Forger:
    """A finished run that may be forged and restored."""

    def __init__(self, root: Path, pack: Path):
        self.root, self.pack = root, pack
        self.clean = {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
        self.run: Run = open_run(root, pack)

    def restore(self) -> None:
        """Put back every byte, and remove what was not there."""
        for path in self.root.rglob("*"):
            if path.is_file() and path.relative_to(self.root).as_posix() not in self.clean:
                path.unlink()
        for name, data in self.clean.items():
            if not (self.root / name).is_file() or (self.root / name).read_bytes() != data:
                (self.root / name).write_bytes(data)

    def forge(self, changed: dict[str, bytes]) -> None:
        """Put new content into the run and rehash."""
        assert any(self.clean.get(name) != data for name, data in changed.items()), "this edit changes nothing"
        for name, data in changed.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(data)
        old_to_new = self._fit_sidecars(changed)
        records = {state: [self._record(state, record, old_to_new) for record in read_outputs(self.run, state)] for state in range(5)}
        for state in range(5):
            publish_outputs(self.run, state, records[state])
        self._reword(old_to_new)
        self._copy_catalogue()
        for state in range(5):
            folder = self.run.state_bundle(state)
            excluded = [f"run_id={self.run.lineage.run_id}"] if state == 0 else []
            if state == 0:
                (folder / "index.json").write_bytes(build_index(folder, excluded))
            write_flag(folder, excluded)
        for path in self.run.state_bundle(0).iterdir():  # fold_s0 refuses to replace
            if path.is_file() and path.name not in (FLAG, "index.json"):
                (self.run.bundle_dir / bundled(path.name)).unlink()
        fold_s0(self.run)
        seal(self.run, {})

    def _fit_sidecars(self, changed: dict[str, bytes]) -> dict[str, str]:
        """Sidecars of changed S3 tables; returns the digests that have gone, with their successors."""
        gone = {}
        for name in changed:
            sidecar = name.removesuffix(".parquet") + "._manifest.json"
            if not name.endswith(".parquet") or sidecar not in self.clean or sidecar in changed:
                continue
            table = table_of(changed[name], Path(name).stem)
            content = hashlib.sha256(b"".join(map(canonical_line, table.to_pylist()))).hexdigest()
            old = json.loads(self.clean[sidecar])
            new = old | {"row_count": table.num_rows, "dataset_digest": hashlib.sha256(changed[name]).hexdigest(), "content_sha256": content}
            (self.root / sidecar).write_bytes(canonical_line(new))
            gone |= {old[key]: new[key] for key in ("dataset_digest", "content_sha256")}
        return gone

    def _record(self, state: int, record: OutputRecord, gone: dict[str, str]) -> OutputRecord:
        """The record of an output as it is now."""
        data = (self.root / record.path).read_bytes()
        if data == self.clean[record.path]:
            return record
        rows = record.rows
        if record.path.endswith(".jsonl"):
            if "/trace/" in record.path:
                data = data[: self._trace_end(state, data)]
            rows = data.count(b"\n")
        elif record.path.endswith(".parquet"):
            rows = pq.read_metadata(io.BytesIO(data)).num_rows
        new = OutputRecord(record.path, hashlib.sha256(data).hexdigest(), len(data), rows)
        gone[record.sha256] = new.sha256
        return new

    def _trace_end(self, state: int, data: bytes) -> int:
        """Where the rows of a state end in the trace log."""
        try:
            return trace_offset(self.run.path("rng_trace_log"), state + 1)
        except Exception:  # a row that no state owns: whoever forges it has to guess
            return len(data)

    def _reword(self, gone: dict[str, str]) -> None:
        """Put the new digests into every document that states an old one."""
        if not gone:
            return
        words = re.compile("|".join(map(re.escape, gone)).encode())
        for top in ("validation", "validation_bundle"):
            for path in (self.root / top).rglob("*.json*"):
                data = path.read_bytes()
                new = words.sub(lambda hit: gone[hit[0].decode()].encode(), data)
                if new != data:
                    path.write_bytes(new)

    def _copy_catalogue(self) -> None:
        """S1's evidence holds a copy of its catalogue."""
        source = self.run.path("s1_hurdle_catalogue")
        (self.run.state_bundle(1) / "catalogue.json").write_bytes(source.read_bytes())


def bundled(name: str) -> str:
    """The name of a document of S0 in the bundle of the run."""
    return "s0_validation_summary.json" if name == "validation_summary.json" else name


# ---- values -------------------------------------------------------------------------------------------------------------


def nearby(value: object, others: list[object], rng: np.random.Generator) -> object:
    """Another value of the same type that could stand there: one of `others` if there is one, else a neighbour."""
    choices = [other for other in others if type(other) is type(value) and other != value]
    if choices and not isinstance(value, (bool, float)):
        return choices[rng.integers(len(choices))]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return math.nextafter(value, 1.0)
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{32,64}", value):
        return value[:-1] + "0123456789abcdef"[(int(value[-1], 16) + 1) % 16]
    if isinstance(value, str) and value.isdigit():
        return str(int(value) + 1)
    if isinstance(value, str) and value.endswith("Z"):
        return value[:-2] + str((int(value[-2]) + 1) % 10) + "Z"
    if isinstance(value, str):
        return value[:-1] + ("a" if value[-1:] != "a" else "b")
    if isinstance(value, list):
        return value[:-1] if value else ["x"]
    if value is None:
        return choices[0] if choices else "x"
    return {**value, next(iter(value)): nearby(value[next(iter(value))], [], rng)} if value else {"x": 1}


# ---- JSON lines ---------------------------------------------------------------------------------------------------------


class Lines:
    """A file of JSON lines: rows that can be taken, changed and put together again."""

    def __init__(self, name: str, data: bytes):
        self.name, self.data = name, data
        self.lines = data.splitlines(keepends=True)

    def row(self, index: int) -> dict:
        """The parsed row at an index."""
        return json.loads(self.lines[index])

    def with_lines(self, lines: list[bytes]) -> dict[str, bytes]:
        """The change that puts these lines into the file."""
        return {self.name: b"".join(lines)}

    def with_row(self, index: int, row: dict) -> dict[str, bytes]:
        """The change of one row."""
        return self.with_lines([*self.lines[:index], canonical_line(row), *self.lines[index + 1 :]])


def field_edits(lines: Lines, state: int, rng: np.random.Generator, rows: list[int] | None = None, label: str = "") -> Iterator[Edit]:
    """An edit for every key that occurs in the rows, at a row of its own."""
    rows = list(range(len(lines.lines))) if rows is None else rows
    keys = sorted({key for index in rows for key in lines.row(index)})
    for key in keys:
        having = [index for index in rows if key in lines.row(index)]
        index = having[rng.integers(len(having))]
        row = lines.row(index)
        others = [lines.row(other).get(key) for other in rng.choice(having, min(len(having), 20))]
        if key.startswith("rng_counter_") or key in ("seed", "blocks", "k", "K_target", "n_outlets", *TOTALS):
            others = []
        wrong = nearby(row[key], others, rng)
        yield Edit(f"{label or Path(lines.name).parts[3]}: {key} of row {index}: {row[key]!r} -> {wrong!r}", state,
                   lambda index=index, row=row, key=key, wrong=wrong: lines.with_row(index, row | {key: wrong}))


def structure_edits(lines: Lines, state: int, rng: np.random.Generator, label: str = "") -> Iterator[Edit]:
    """Rows lost, doubled, exchanged, cut off; two merchants who exchange what was drawn for them."""
    name, count = label or Path(lines.name).parts[3], len(lines.lines)
    i, j = sorted(map(int, rng.choice(count, 2, replace=False)))
    rest = lines.lines

    def changed_identity() -> dict[str, bytes]:
        first, second = lines.row(i), lines.row(j)
        one, other = first | {"merchant_id": second["merchant_id"]}, second | {"merchant_id": first["merchant_id"]}
        return lines.with_lines([*rest[:i], canonical_line(one), *rest[i + 1 : j], canonical_line(other), *rest[j + 1 :]])

    yield Edit(f"{name}: row {i} lost", state, lambda: lines.with_lines([*rest[:i], *rest[i + 1 :]]))
    yield Edit(f"{name}: row {i} twice", state, lambda: lines.with_lines([*rest[: i + 1], *rest[i:]]))
    yield Edit(f"{name}: rows {i} and {j} exchanged", state, lambda: lines.with_lines([*rest[:i], rest[j], *rest[i + 1 : j], rest[i], *rest[j + 1 :]]))
    yield Edit(f"{name}: the last row lost", state, lambda: lines.with_lines(rest[:-1]))
    if "merchant_id" in lines.row(i):
        yield Edit(f"{name}: rows {i} and {j} exchange merchants", state, changed_identity)


def retraced(trace: Lines, event: dict) -> dict[str, bytes]:
    """The trace log without the row of an event, later totals of its key fitted."""
    lines, found = [], False
    for line in trace.lines:
        row = json.loads(line)
        if (row["module"], row["substream_label"]) == (event["module"], event["substream_label"]):
            same = all(row[f"rng_counter_{side}"] == event[f"rng_counter_{side}"] for side in ("before_hi", "before_lo", "after_hi", "after_lo"))
            if same and not found:
                found, off = True, (event["blocks"], int(event["draws"]), 1)
                continue
            if found:
                row |= {name: row[name] - less for name, less in zip(TOTALS, off)}
        lines.append(canonical_line(row))
    assert found
    return trace.with_lines(lines)


# ---- tables -------------------------------------------------------------------------------------------------------------


def table_of(data: bytes, dataset_id: str) -> pa.Table:
    """A stored table in the contract's types."""
    return pq.ParquetFile(io.BytesIO(data)).read().cast(contracts().arrow_schema(dataset_id))


def table_bytes(table: pa.Table, like: bytes, row_group_size: int | None = None) -> bytes:
    """A table as the engine stores it."""
    out = io.BytesIO()
    pq.write_table(table.cast(pq.read_schema(io.BytesIO(like))), out, version="2.6", compression="zstd", compression_level=3, store_schema=False,
                   row_group_size=row_group_size or max(len(table), 1))
    return out.getvalue()


def in_order(table: pa.Table, dataset_id: str) -> pa.Table:
    """A table sorted as the dictionary says."""
    return table.sort_by([(name, "ascending") for name in contracts().dataset(dataset_id).ordering])


def with_cell(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    """A table with another value in one cell."""
    values = table[column].to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    return table.set_column(place, table.schema.field(column), pa.array(values, table.schema.field(column).type))


def cell_of(table: pa.Table, column: str, row: int, rng: np.random.Generator) -> object:
    """Another value for a cell, which its column could hold."""
    value, kind = table[column][row].as_py(), table.schema.field(column).type
    if pa.types.is_float32(kind):
        return float(np.nextafter(np.float32(value), np.float32(9)))
    distinct = table[column].to_pylist() if pa.types.is_list(kind) else pc.unique(table[column]).to_pylist()
    others = [distinct[i] for i in rng.choice(len(distinct), min(len(distinct), 40), replace=False)]
    return nearby(value, others, rng)


def table_edits(name: str, data: bytes, state: int, rng: np.random.Generator) -> Iterator[Edit]:
    """An edit for every column, and rows lost, doubled, exchanged."""
    dataset_id = Path(name).stem
    table = table_of(data, dataset_id)
    count = len(table)

    def kept(forged: pa.Table) -> Callable[[], dict[str, bytes]]:
        return lambda: {name: table_bytes(forged, data)}

    for column in table.column_names:
        row = int(rng.integers(count))
        wrong = cell_of(table, column, row, rng)
        forged = with_cell(table, column, row, wrong)
        forged = in_order(forged, dataset_id) if column in contracts().dataset(dataset_id).ordering else forged
        yield Edit(f"{dataset_id}: {column} of row {row}: {table[column][row].as_py()!r} -> {wrong!r}", state, kept(forged))
    i, j = sorted(map(int, rng.choice(count, 2, replace=False)))
    order = list(range(count))
    yield Edit(f"{dataset_id}: row {i} lost", state, kept(table.take([*order[:i], *order[i + 1 :]])))
    yield Edit(f"{dataset_id}: row {i} twice", state, kept(table.take([*order[: i + 1], *order[i:]])))
    yield Edit(f"{dataset_id}: the last row lost", state, kept(table.slice(0, count - 1)))
    yield Edit(f"{dataset_id}: rows {i} and {j} exchanged", state, kept(table.take([*order[:i], j, *order[i + 1 : j], i, *order[j + 1 :]])))


# ---- documents ----------------------------------------------------------------------------------------------------------


def document_edits(name: str, data: bytes, state: int, rng: np.random.Generator, keys: list[str] | None = None) -> Iterator[Edit]:
    """An edit for every key of a JSON document, written in the style of the original."""
    document = json.loads(data)
    dump = canonical_line if data == canonical_line(document) else pretty_json
    for key in sorted(document) if keys is None else keys:
        wrong = nearby(document[key], [], rng)
        yield Edit(f"{Path(name).name}: {key}", state, lambda key=key, wrong=wrong: {name: dump(document | {key: wrong})})
