"""A small world for the tests of S0: requests, runs, and packs in which one thing is different."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from seg1a.core.encoding import canonical_json, read_yaml
from seg1a.core.run import Options, Run, open_run
from seg1a.inputs.pack import overlay_pack
from seg1a.states.s0_foundations import run_s0

START = 1_700_000_000_000_000_000
HURDLE, DISPERSION, ELIGIBILITY = "hurdle_coefficients.yaml", "nb_dispersion_coefficients.yaml", "crossborder_hyperparams.yaml"
MERCHANTS, ISO, GDP, BUCKETS = "transaction_schema_merchant_ids.parquet", "iso3166.parquet", "gdp.parquet", "gdp_bucket_map.parquet"


def pack_file(pack: Path, name: str) -> Path:
    (path,) = pack.rglob(name)
    return path


def document(pack: Path, name: str) -> dict:
    """The content of a YAML or JSON file of a pack."""
    return read_yaml(pack_file(pack, name).read_bytes(), name)


def rows(pack: Path, name: str) -> list[dict]:
    """The rows of a table of a pack."""
    return pq.read_table(pack_file(pack, name)).to_pylist()


def table_bytes(pack: Path, name: str, content: list[dict]) -> bytes:
    """Rows as a Parquet file with the types that the table has in the pack."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(content, schema=pq.read_schema(pack_file(pack, name)).remove_metadata()), sink)
    return sink.getvalue().to_pybytes()


def few_coefficients(pack: Path) -> dict[str, bytes]:
    """The coefficient files without the MCCs that no merchant has: what is read a hundred times should be short."""
    occurring, files = {row["mcc"] for row in rows(pack, MERCHANTS)}, {}
    for name in (HURDLE, DISPERSION):
        content = document(pack, name)
        codes = content["dicts"]["mcc"]
        kept = [0, *(1 + i for i, code in enumerate(codes) if code in occurring)]
        content["dicts"]["mcc"] = [code for code in codes if code in occurring]
        content |= {key: [beta[i] for i in kept] + beta[1 + len(codes) :] for key, beta in content.items() if key.startswith("beta")}
        files[name] = canonical_json(content).encode()
    return files


def small_world(small_pack: Path, folder: Path) -> Path:
    """The shared small pack with short coefficient files."""
    return overlay_pack(small_pack, few_coefficients(small_pack), folder / "world")


def changed(pack: Path, name: str, change: Callable) -> dict[str, bytes]:
    """An override: rows of a table, or the content of a document, after `change(content)`; what it returns, if anything, replaces the content."""
    read, write = (rows, table_bytes) if name.endswith(".parquet") else (document, lambda pack, name, content: canonical_json(content).encode())
    content = read(pack, name)
    returned = change(content)
    return {name: write(pack, name, content if returned is None else returned)}


def request_file(folder: Path, pack: Path, **fields) -> Path:
    """A request of S0 below `folder`; `options` are the flags that differ from the defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    options = Options(**fields.pop("options", {})).sealed()
    request = {"output_dir": str(folder / "out"), "pack": str(pack), "seed": 7, "git_commit": "ab" * 20, "start_time_ns": START, "options": options,
               "expect_parameter_hash": None, "expect_manifest_fingerprint": None, "handoff": str(folder / "handoff.json")}
    path = folder / "request.json"
    path.write_text(json.dumps(request | fields))
    return path


def claimed_root(folder: Path) -> Path:
    """The root that S0 handed over."""
    return Path(json.loads((folder / "handoff.json").read_text())["root"])


def run_of(folder: Path, pack: Path, **fields) -> Run:
    """A run of S0 that passes, opened from its root."""
    run_s0(request_file(folder, pack, **fields))
    return open_run(claimed_root(folder), pack)
