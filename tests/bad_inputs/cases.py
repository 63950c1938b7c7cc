"""What a row of the catalogue is, and the small vocabulary in which damage is written down.

A case is a defect, the code and the exit status that it earns, and the texts that the message must hold, so that a person finds the
place: file, row, key, value. Damage is a function of the good pack: new bytes for some of its files (the pack is indexed anew around
them, so that the inner check is reached), or a change of the folder itself, after which nothing is indexed anew.
"""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from s0_support import BUCKETS, DISPERSION, ELIGIBILITY, GDP, HURDLE, ISO, MERCHANTS, changed, document, pack_file

from seg1a.core.encoding import canonical_json, canonical_line
from seg1a.inputs.manifest import CHECKSUMS, MANIFEST, checksums_text

LADDER, WEIGHTS, THRESHOLDS, BOUNDS = (f"policy.s3.{name}.yaml" for name in ("rule_ladder", "base_weight", "thresholds", "bounds"))
S4, FEATURES, VALIDATION = "policy.s4.hyperparams.yaml", "crossborder_features.parquet", "validation_policy.yaml"
NUMERIC, PROFILE = "numeric_policy.json", "math_profile_manifest.json"
PASS = "PASS"

Overlay = Callable[[Path], dict[str, bytes | None]]

__all__ = ["BOUNDS", "BUCKETS", "DISPERSION", "ELIGIBILITY", "FEATURES", "GDP", "HURDLE", "ISO", "LADDER", "MERCHANTS", "NUMERIC", "PASS", "PROFILE", "S4", "THRESHOLDS", "VALIDATION", "WEIGHTS",
           "Case", "Overlay", "binary", "cell", "command", "dropped", "everything", "good", "key", "left_out", "missing", "pack_file", "parquet", "reindex", "retyped", "table", "text", "whole"]


@dataclass(frozen=True)
class Case:
    """One row: `run` on a pack with `overlay` laid over and `damage` done to its folder, or `arguments` instead of those of a run.

    `names` must stand in the line that is printed. `arguments` and `environment` may hold `{tmp}`, `{pack}` and `{out}`."""

    defect: str
    code: str
    names: tuple[str, ...] = ()
    exit: int = 1
    overlay: Overlay | None = None
    damage: Callable[[Path], object] | None = None
    flags: tuple[str, ...] = ()
    arguments: tuple[str, ...] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)  # below {tmp}
    evidence: bool = True  # False where no place is left for a record


def good(defect: str, overlay: Overlay | None = None, **more) -> Case:
    """An odd input that is legal."""
    return Case(defect, PASS, (), 0, overlay, **more)


def command(defect: str, code: str, names: tuple[str, ...], *arguments: str, exit: int = 2, **more) -> Case:
    """A command line other than that of a run."""
    return Case(defect, code, names, exit, arguments=arguments, **more)


# ---- documents ----------------------------------------------------------------------------------------------------------


def whole(name: str, content: str | bytes) -> Overlay:
    """The file holds exactly this."""
    return lambda pack: {name: content.encode() if isinstance(content, str) else content}


def left_out(name: str) -> Overlay:
    """The file, which may be absent, is not in the pack."""
    return lambda pack: {name: None}


def missing(name: str) -> Callable[[Path], None]:
    """The file, which is required, is not in the pack, and both index files know nothing of it."""
    def damage(pack: Path):
        pack_file(pack, name).unlink()
        content = json.loads((pack / MANIFEST).read_bytes())
        content["artefacts"] = [a for a in content["artefacts"] if not a["path"].endswith("/" + name)]
        reindex(pack, content)
    return damage


def reindex(pack: Path, content: dict) -> None:
    """Write both index files for these artefacts."""
    content["artefacts"].sort(key=lambda a: a["path"])
    data = checksums_text((a["path"], a["sha256"]) for a in content["artefacts"]).encode("utf-8", "surrogatepass")
    (pack / CHECKSUMS).write_bytes(data)
    (pack / MANIFEST).write_bytes(canonical_line(content | {"checksums_sha256": hashlib.sha256(data).hexdigest()}))


def text(name: str, change: Callable[[str], str]) -> Overlay:
    """The file as canonical JSON, which is YAML, after a change of its text."""
    def overlay(pack):
        before = canonical_json(document(pack, name))
        after = change(before)
        assert after != before, f"{name}: nothing changed"
        return {name: after.encode("utf-8", "surrogatepass")}
    return overlay


def binary(name: str, change: Callable[[bytes], bytes]) -> Overlay:
    """The file after a change of its bytes."""
    return lambda pack: {name: change(pack_file(pack, name).read_bytes())}


_GONE = object()


def key(name: str, path: str, value: object = _GONE) -> Overlay:
    """A document with another value at `a.b.0.c`, or without that key."""
    *steps, last = [int(step) if step.isdigit() else step for step in path.split("/")]

    def change(content):
        for step in steps:
            content = content[step]
        if value is _GONE:
            del content[last]
        else:
            content[last] = value(content[last]) if callable(value) else value
    return lambda pack: changed(pack, name, change)


# ---- tables -------------------------------------------------------------------------------------------------------------


def parquet(content: pa.Table, **options) -> bytes:
    sink = io.BytesIO()
    pq.write_table(content, sink, **options)
    return sink.getvalue()


def table(name: str, change: Callable[[pa.Table], pa.Table], **options) -> Overlay:
    """The table after a change, types included."""
    return lambda pack: {name: parquet(change(pq.read_table(pack_file(pack, name)).replace_schema_metadata(None)), **options)}


def cell(name: str, row: int, column: str, value: object) -> Overlay:
    """Another value of the column's own type."""
    return lambda pack: changed(pack, name, lambda rows: rows[row].update({column: value}))


def retyped(name: str, column: str, kind: pa.DataType, row: int | None = None, value: object = None) -> Overlay:
    """A column of another type, if need be with one value that only this type can hold."""
    def change(content):
        values = content[column].to_pylist()
        if pa.types.is_string(kind):
            values = list(map(str, values))
        if row is not None:
            values[row] = value
        place = content.column_names.index(column)
        return content.set_column(place, pa.field(column, kind), pa.array(values, kind))
    return table(name, change)


def dropped(name: str, column: str) -> Overlay:
    return table(name, lambda content: content.drop_columns([column]))


def everything(*overlays: Overlay) -> Overlay:
    """Several damages at once."""
    return lambda pack: {name: data for overlay in overlays for name, data in overlay(pack).items()}
