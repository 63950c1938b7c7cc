"""The inputs of the end-to-end case of the vectors, and random universes, as run roots in small."""
import json
from pathlib import Path

import numpy as np

from seg1a.core.exact import ln
from seg1a.core.run import Lineage, Options, Run
from seg1a.states.replay import miniature_run

VECTORS = json.loads((Path(__file__).parent / "vectors" / "s1_s2.json").read_text())
START_NS = 1_700_000_000_000_000_000


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


def end_to_end_run(root: Path, changes: dict | None = None, options: Options = Options(), workers: int = 1) -> Run:
    "The input of the end-to-end case of the vectors; `changes` replace whole sealed files."
    whole = VECTORS["end_to_end"]["input"]
    files = {"hurdle_coefficients.yaml": whole["hurdle_coefficients"], "nb_dispersion_coefficients.yaml": whole["nb_dispersion_coefficients"],
             "validation_policy.yaml": {"semver": "1.0.0", "version": "1", "s2": whole["policy"]}} | (changes or {})
    return miniature_run(root, lineage_of(whole["run"]), design_columns(whole), files, options, workers)


def tree(root: Path) -> dict[str, bytes]:
    "All files below a folder."
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
