"""Known answers of S1 and S2: every case of vectors/s1_s2.json that belongs to the two states, compiled path and reference alike."""
import json
from pathlib import Path

import numpy as np
import pytest

from seg1a.core.errors import Seg1aError
from seg1a.states.s2_corridors import corridor_policy, cusum_limit, dispersion_metrics, evaluate_corridors

VECTORS = json.loads((Path(__file__).parent / "vectors" / "s1_s2.json").read_text())
TRACE_COLUMNS = ("alpha", "rejections", "expected", "variance", "z_score", "cusum")


def corridor_columns(case):
    kinds = {"merchant_id": np.int64, "mu": np.float64, "dispersion_k": np.float64, "nb_rejections": np.int64}
    return {name: np.array([row[i] for row in case["rows"]], dtype=kinds[name]) for i, name in enumerate(case["columns"])}


def check_corridors(expected, got):
    assert got.status == expected["status"]
    assert got.insufficient == expected.get("insufficient", False)
    assert got.excluded.tolist() == expected["excluded"]
    if "error" in expected:
        assert got.codes == (expected["error"],)
    if "breaches" not in expected:
        return
    assert list(got.breaches) == expected["breaches"]
    assert got.skipped.tolist() == expected["cusum_skipped"]
    for name in ("rho_reject", "p99_rejections", "cusum_max", "merchant_count", "total_rejections", "total_attempts"):
        assert got.metrics[name] == expected[name], name
    if "trace" in expected:
        assert got.order.tolist() == [row["merchant_id"] for row in expected["trace"]]
        for name in TRACE_COLUMNS:
            assert got.trace[name].tolist() == [row[name] for row in expected["trace"]], name


@pytest.mark.parametrize("case", VECTORS["corridors"], ids=lambda c: c["name"])
def test_vectors_corridors(case):
    columns = corridor_columns(case)
    if case["expected"].get("error") == "ERR_S2_CORRIDOR_POLICY_MISSING":
        with pytest.raises(Seg1aError) as refusal:
            corridor_policy(case["policy"])
        assert refusal.value.code == case["expected"]["error"]
        return
    got = evaluate_corridors(corridor_policy(case["policy"]), columns["merchant_id"], columns["mu"], columns["dispersion_k"],
                             columns["nb_rejections"])
    check_corridors(case["expected"], got)


@pytest.mark.parametrize("case", VECTORS["cusum_limit"])
def test_vectors_cusum_limit(case):
    theta, h = cusum_limit(np.array(case["alphas"]), case["merchants"], case["reference_k"], case["alpha_cap"], case["false_alarm"])
    assert theta == pytest.approx(case["theta_star"], rel=1e-9)
    assert h == pytest.approx(case["threshold_h"], rel=1e-9)


def test_vectors_end_to_end_corridors_and_dispersion():
    whole = VECTORS["end_to_end"]
    rows = whole["expected"]["nb_final"]
    ids, r, n = (np.array([row[k] for row in rows], dtype=np.int64) for k in ("merchant_id", "nb_rejections", "n_outlets"))
    mu, phi = (np.array([row[k] for row in rows]) for k in ("mu", "dispersion_k"))
    check_corridors(whole["expected"]["corridors"], evaluate_corridors(corridor_policy(whole["input"]["policy"]), ids, mu, phi, r))
    got = dispersion_metrics(ids, mu, phi, n)
    for name, value in whole["expected"]["dispersion"].items():
        assert got[name] == value, name
