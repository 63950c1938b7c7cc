"""A run root as S0 leaves it, small and by hand: design table, audit row, sealed coefficient files, S0's bundle with its flag."""
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from seg1a.core.encoding import canonical_line
from seg1a.core.events import audit_row
from seg1a.core.exact import ln
from seg1a.core.gates import publish_state_bundle
from seg1a.core.run import Lineage, Options, Run, atomic_bytes, claim_run_root, open_run
from seg1a.core.shards import SHARD, shard_ranges
from seg1a.core.tables import TableSink, table_of

VECTORS = json.loads((Path(__file__).parent / "vectors" / "s1_s2.json").read_text())
START_NS = 1_700_000_000_000_000_000
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def lineage_of(run: dict) -> Lineage:
    return Lineage(run["seed"], run["parameter_hash"], run["manifest_fingerprint"], run["run_id"], START_NS)


def design_columns(whole: dict) -> dict:
    "The columns of the design table that the input of an end-to-end case implies, merchants ascending."
    merchants = sorted(whole["merchants"], key=lambda m: m["merchant_id"])
    mcc = whole["hurdle_coefficients"]["dicts"]["mcc"]
    gdp = [float(whole["gdp_per_capita"][m["home_country_iso"]]) for m in merchants]
    return {
        "merchant_id": np.array([m["merchant_id"] for m in merchants], np.int64), "mcc": np.array([m["mcc"] for m in merchants], np.int32),
        "channel": [m["channel"] for m in merchants], "mcc_index": np.array([mcc.index(m["mcc"]) for m in merchants], np.int32),
        "gdp_bucket_id": np.array([whole["gdp_bucket"][m["home_country_iso"]] for m in merchants], np.int8),
        "channel_index": np.array([["card_present", "card_not_present"].index(m["channel"]) for m in merchants], np.int8),
        "gdp_pc_usd_2015": np.array(gdp), "ln_gdp_pc": np.array([ln(g) for g in gdp])}


def universe(n: int, model: dict, seed: int = 1) -> dict:
    "The columns of a design table of n merchants with random categories."
    rng = np.random.default_rng(seed)
    c = len(model["dicts"]["mcc"])
    mcc_index, channel_index, gdp = rng.integers(0, c, n), rng.integers(0, 2, n), np.exp(rng.normal(9.0, 1.2, 200))
    country = rng.integers(0, 200, n)
    return {
        "merchant_id": np.cumsum(rng.integers(1, 1_000_000_000, n)), "mcc": np.array(model["dicts"]["mcc"], np.int32)[mcc_index],
        "channel": np.array(["card_present", "card_not_present"])[channel_index].tolist(), "mcc_index": mcc_index.astype(np.int32),
        "gdp_bucket_id": rng.integers(1, 6, n).astype(np.int8), "channel_index": channel_index.astype(np.int8),
        "gdp_pc_usd_2015": gdp[country], "ln_gdp_pc": np.array([ln(float(g)) for g in gdp])[country]}


def write_design(run: Run, columns: dict) -> None:
    with TableSink(run, "hurdle_design_matrix") as sink:
        for shard in shard_ranges(len(columns["merchant_id"])):
            part = {name: values[shard.start:shard.stop] for name, values in columns.items()}
            sink.write(table_of("hurdle_design_matrix", part | {"parameter_hash": run.lineage.parameter_hash, "produced_by_fingerprint": None, "intercept": 1.0}))


def lay_out(root: Path, lineage: Lineage, columns: dict, files: dict[str, dict], options: Options = Options(), workers: int = 1) -> Run:
    "Everything that S1 and S2 expect below `root`; `files`: basename -> content of the sealed YAML files."
    pack = root / "pack"
    rows = []
    for name, content in files.items():
        data = json.dumps(content).encode() + b"\n"     # JSON is YAML 1.2
        atomic_bytes(pack / "config" / name, data)
        rows.append({"filename": name, "path": f"config/{name}", "size_bytes": len(data), "sha256_hex": hashlib.sha256(data).hexdigest()})
    run = Run(root / "run", pack, lineage, options, COMMIT, workers)
    claim_run_root(run.root, lineage)
    atomic_bytes(run.path("rng_audit_log"), audit_row(lineage, COMMIT, None))
    write_design(run, columns)
    stamp = {"seed": lineage.seed, "parameter_hash": lineage.parameter_hash, "manifest_fingerprint": lineage.manifest_fingerprint,
             "run_id": lineage.run_id, "start_ns": lineage.start_time_ns, "git_commit_hex": COMMIT, "cli_flags": options.sealed()}
    publish_state_bundle(run, 0, {"fingerprint_artifacts.jsonl": b"".join(canonical_line(row) for row in rows),
                                  "execution_stamp.json": canonical_line(stamp), "validation_summary.json": canonical_line({"passed": True})}, True)
    return replace(open_run(run.root, pack, workers), options=options)


def end_to_end_run(root: Path, changes: dict | None = None, options: Options = Options(), workers: int = 1) -> Run:
    "The input of the end-to-end case of the vectors; `changes` replace whole sealed files."
    whole = VECTORS["end_to_end"]["input"]
    files = {"hurdle_coefficients.yaml": whole["hurdle_coefficients"], "nb_dispersion_coefficients.yaml": whole["nb_dispersion_coefficients"],
             "validation_policy.yaml": {"semver": "1.0.0", "version": "1", "s2": whole["policy"]}} | (changes or {})
    return lay_out(root, lineage_of(whole["run"]), design_columns(whole), files, options, workers)


def tree(root: Path) -> dict[str, bytes]:
    "All files below a folder."
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
