"""Known answers for S0's tables: ingress, design, eligibility. Every case, its dictionaries and its coefficients are read from the file."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seg1a.core.errors import Seg1aError
from seg1a.core.numerics import neumaier_dot
from seg1a.states.s0_coefficients import dispersion_coefficients, hurdle_coefficients
from seg1a.states.s0_design import design_columns, hurdle_probabilities
from seg1a.states.s0_eligibility import CHANNELS, decide, decide_many, eligibility_policy
from seg1a.states.s0_ingress import CHANNEL_TOKENS, Universe, check_merchants, read_universe
from seg1a.states.s0_recompute import dense_vectors

S0 = json.loads((Path(__file__).parent / "vectors" / "s0.json").read_text("utf-8"))
KINDS = {"merchant_id": pa.int64(), "mcc": pa.int32(), "channel": pa.string(), "home_country_iso": pa.string()}


def cases(section: str) -> list[dict]:
    """The cases of a section, which may hold one or many."""
    return S0[section] if isinstance(S0[section], list) else [S0[section]]


def floats(texts: list[str]) -> list[float]:
    return [float.fromhex(text) for text in texts]


def column(values: list, kind: pa.DataType) -> pa.Array:
    """The values in the contract's type, or, when they do not fit it, in the type that they have."""
    for attempt in (kind, pa.int64(), pa.uint64(), None):
        try:
            return pa.array(values, attempt)
        except (pa.ArrowException, OverflowError):
            continue
    return pa.array([str(value) for value in values])


def table(rows: list[dict]) -> pa.Table:
    """Merchants as an ingress table; a column that no row has is not there."""
    names = [name for name in KINDS if not rows or any(name in row for row in rows)]
    return pa.table([column([row.get(name) for row in rows], KINDS[name]) for name in names], names=names)


def universe_of(merchants: list[dict], isos: list[str]) -> Universe:
    return check_merchants(table(merchants), isos)


def refusal(act, *arguments) -> str | None:
    try:
        act(*arguments)
    except Seg1aError as error:
        return error.code
    return None


@pytest.mark.parametrize("case", cases("ingress_bad"), ids=lambda case: f"{case['code']}-{len(case['rows'])}")
def test_vectors_ingress_bad(tmp_path, case):
    pq.write_table(table(case["rows"]), tmp_path / "merchants.parquet")
    assert refusal(read_universe, tmp_path / "merchants.parquet", sorted(case["iso_set"])) == case["code"]


@pytest.mark.parametrize("case", cases("eligibility_bad"), ids=lambda case: str(case["code"]))
def test_vectors_eligibility_bad(case):
    assert refusal(eligibility_policy, case["eligibility"], frozenset(case["iso_set"])) == case["code"]


@pytest.mark.parametrize("case", cases("eligibility"), ids=lambda case: case["eligibility"]["rule_set_id"])
def test_vectors_eligibility(case):
    policy, isos = eligibility_policy(case["eligibility"], frozenset(case["iso_set"])), sorted(case["iso_set"])
    universe = universe_of(case["merchants"], isos)
    eligible, index, reasons = decide_many(policy, universe.mcc, universe.channel_index, universe.home_index, isos)
    rows = [{"merchant_id": int(m), "is_eligible": bool(e), "reason": reasons[r], "rule_set": policy.rule_set_id} for m, e, r in zip(universe.merchant_id, eligible, index)]
    assert rows == sorted(case["rows"], key=lambda row: row["merchant_id"])
    by_id = {row["merchant_id"]: (row["is_eligible"], row["reason"]) for row in case["rows"]}
    for merchant in case["merchants"]:
        channel = CHANNELS[CHANNEL_TOKENS.index(merchant["channel"])]
        assert decide(policy, merchant["mcc"], channel, merchant["home_country_iso"]) == by_id[merchant["merchant_id"]]


def coefficients(case: dict):
    """The two coefficient files of a case, through the same checks as those of a pack."""
    dicts = {"mcc": case["dict_mcc"], "channel": ["CP", "CNP"]}
    stamp = {"semver": "1.0.0", "version": "2025-11-03"}
    hurdle = hurdle_coefficients(stamp | {"dicts": dicts | {"gdp_bucket": [1, 2, 3, 4, 5]}, "beta": floats(case["beta"]), "beta_mu": floats(case["beta_mu"])})
    return hurdle, dispersion_coefficients(stamp | {"dicts": dicts, "beta_phi": floats(case["beta_phi"])}, hurdle)


def hexadecimal(value) -> str:
    return float(value).hex()


@pytest.mark.parametrize("case", cases("design"), ids=lambda case: f"C={len(case['dict_mcc'])}")
def test_vectors_design_by_columns(case):
    hurdle, _ = coefficients(case)
    design = design_columns(universe_of([row["merchant"] for row in case["rows"]], sorted(case["gdp"])), hurdle, case["gdp"], case["bucket"])
    eta, pi = hurdle_probabilities(design, hurdle)
    place = {int(merchant): row for row, merchant in enumerate(design.merchant_id)}
    assert len(place) == len(case["rows"])
    for row in case["rows"]:
        i = place[row["merchant"]["merchant_id"]]
        assert (design.mcc_index[i], design.channel_index[i], design.gdp_bucket_id[i]) == (row["mcc_index"], row["channel_index"], row["bucket_index"] + 1)
        assert design.mcc[i] == row["merchant"]["mcc"] == case["dict_mcc"][row["mcc_index"]]
        observed = {"gdp_pc": design.gdp_pc[i], "ln_gdp_pc": design.ln_gdp_pc[i], "eta": eta[i], "pi": pi[i], "logit_f32": eta.astype(np.float32)[i], "pi_f32": pi.astype(np.float32)[i]}
        assert {name: hexadecimal(value) for name, value in observed.items()} == {name: hexadecimal(float.fromhex(row[name])) for name in observed}


@pytest.mark.parametrize("case", cases("design"), ids=lambda case: f"C={len(case['dict_mcc'])}")
def test_vectors_design_by_dense_vectors(case):
    hurdle, dispersion = coefficients(case)
    for row in case["rows"]:
        x, x_mu, x_phi = dense_vectors(len(case["dict_mcc"]), row["mcc_index"], row["channel_index"], row["bucket_index"] + 1, float.fromhex(row["ln_gdp_pc"]))
        assert x == row["x_hurdle"]
        dots = {"eta": neumaier_dot(hurdle.beta.tolist(), x), "eta_mu": neumaier_dot(hurdle.beta_mu.tolist(), x_mu), "eta_phi": neumaier_dot(dispersion.beta_phi.tolist(), x_phi)}
        assert {name: hexadecimal(value) for name, value in dots.items()} == {name: hexadecimal(float.fromhex(row[name])) for name in dots}
