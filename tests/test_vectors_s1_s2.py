"""Known answers of S1 and S2: every case of vectors/s1_s2.json that belongs to the two states, compiled path and reference alike."""
import json

import numpy as np
import pytest
from s1_s2_support import VECTORS, design_columns, end_to_end_run, lineage_of

from seg1a.core.errors import Seg1aError
from seg1a.core.events import event_program, part_path
from seg1a.core.numerics import neumaier_dot
from seg1a.core.rows import row_objects
from seg1a.core.tables import read_aborts
from seg1a.states.s1_hurdle import compute_s1, compute_s1_reference, design_of, hurdle_links, hurdle_model, run_s1
from seg1a.states.s2_attempts import Features, compute_s2, compute_s2_reference, draw_counts, link_values, nb_model
from seg1a.states.s2_corridors import corridor_policy, cusum_limit, dispersion_metrics, evaluate_corridors
from seg1a.states.s2_nb_outlets import run_s2

WHOLE = VECTORS["end_to_end"]
BOTH_PATHS = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
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


def rows_of(stream, run, columns):
    "The event rows of the columns, without the clock, as the vectors have them."
    rows = row_objects(event_program(stream, lineage_of(run)), columns)
    return [{key: value for key, value in row.items() if key != "ts_utc"} for row in rows]


def whole_design():
    model = hurdle_model(WHOLE["input"]["hurdle_coefficients"])
    columns = design_columns(WHOLE["input"])
    return design_of(columns | {"channel": np.array(columns["channel"], dtype=object)}, model), model


def whole_features():
    columns = design_columns(WHOLE["input"])
    multi = np.isin(columns["merchant_id"], WHOLE["expected"]["multi_merchant_ids"])
    return Features(columns["merchant_id"][multi], columns["mcc_index"][multi].astype(np.int64), columns["channel_index"][multi].astype(np.int64),
                    columns["ln_gdp_pc"][multi])


def test_vectors_end_to_end_eta():
    design, model = whole_design()
    eta, _ = hurdle_links(design, model)
    assert {int(i): float(e).hex() for i, e in zip(design.merchant_id, eta)} == \
        {row["merchant_id"]: float.fromhex(row["eta"]).hex() for row in WHOLE["expected"]["eta"]}


@BOTH_PATHS
def test_vectors_end_to_end_hurdle(compiled):
    run = WHOLE["input"]["run"]
    columns = (compute_s1 if compiled else compute_s1_reference)(*whole_design(), lineage_of(run).master)
    assert rows_of("hurdle_bernoulli", run, columns) == WHOLE["expected"]["hurdle"]
    assert columns["merchant_id"][columns["is_multi"]].tolist() == WHOLE["expected"]["multi_merchant_ids"]


@BOTH_PATHS
def test_vectors_end_to_end_attempts(compiled):
    run, expected = WHOLE["input"]["run"], WHOLE["expected"]
    model = nb_model(WHOLE["input"]["hurdle_coefficients"], WHOLE["input"]["nb_dispersion_coefficients"])
    part = (compute_s2 if compiled else compute_s2_reference)(whole_features(), model, lineage_of(run).master)
    for stream, columns, key in (("gamma_component", part.gamma, "gamma"), ("poisson_component_nb", part.poisson, "poisson"), ("nb_final", part.final, "nb_final")):
        assert rows_of(stream, run, columns) == expected[key]
    assert [(m["merchant_id"], m["attempt"]) for m in expected["merchant_aborts"]] == list(zip(part.aborted.tolist(), part.aborted_attempt.tolist()))


@pytest.mark.parametrize("workers", [1, 2])
def test_vectors_end_to_end_run(tmp_path, workers):
    "The two states as they run: the files on disk hold the expected rows, and both validators pass."
    run, expected = end_to_end_run(tmp_path, workers=workers), WHOLE["expected"]
    one, two = run_s1(run), run_s2(run)
    assert one["passed"] and two["passed"]
    for stream, key in (("hurdle_bernoulli", "hurdle"), ("gamma_component", "gamma"), ("poisson_component_nb", "poisson"), ("nb_final", "nb_final")):
        rows = [json.loads(line) for line in part_path(run, stream, 0).read_bytes().splitlines()]
        assert [{k: v for k, v in row.items() if k != "ts_utc"} for row in rows] == expected[key]
    assert [(a.merchant_id, a.reason, a.detail["attempt"]) for a in read_aborts(run, "S2")] == \
        [(m["merchant_id"], m["code"], m["attempt"]) for m in expected["merchant_aborts"]]
    trace = [json.loads(line) for line in run.path("rng_trace_log").read_bytes().splitlines()]
    final = {f"{row['module']}|{row['substream_label']}": {k: v for k, v in row.items() if k != "ts_utc"} for row in trace}
    assert len(trace) == expected["trace_row_count"] and final == expected["trace_final"]
    assert {name: two["metrics"][name] for name in expected["dispersion"]} == expected["dispersion"]
    assert two["metrics"]["cusum_max"] == expected["corridors"]["cusum_max"]


def split_events(events):
    labels = ("gamma_nb", "poisson_nb", "nb_final")
    return [[event for event in events if event["substream_label"] == label] for label in labels]


@BOTH_PATHS
@pytest.mark.parametrize("case", VECTORS["nb_merchant"]["cases"], ids=lambda c: str(c["merchant_id"]))
def test_vectors_nb_merchant(case, compiled):
    run = VECTORS["nb_merchant"]["run"]
    mu, phi = (np.array([float.fromhex(case[name])]) for name in ("mu", "phi"))
    part = draw_counts(np.array([case["merchant_id"]]), mu, phi, np.array([True]), lineage_of(run).master, compiled=compiled)
    streams = zip(("gamma_component", "poisson_component_nb", "nb_final"), (part.gamma, part.poisson, part.final), split_events(case["events"]))
    for stream, columns, expected in streams:
        assert rows_of(stream, run, columns) == expected


@BOTH_PATHS
def test_vectors_nb_numeric_invalid(compiled):
    case = VECTORS["nb_numeric_invalid"]
    aborts, finals = case["abort"], case["finish"]
    ids = np.array(sorted(row["merchant_id"] for row in aborts + finals))
    part = draw_counts(ids, np.full(ids.size, float(case["mu"])), np.full(ids.size, float(case["phi"])), np.ones(ids.size, bool),
                       lineage_of(case["run"]).master, compiled=compiled)
    assert dict(zip(part.aborted.tolist(), part.aborted_attempt.tolist())) == {row["merchant_id"]: row["attempt_with_bad_lambda"] for row in aborts}
    got = zip(*(part.final[name].tolist() for name in ("merchant_id", "n_outlets", "nb_rejections")))
    assert {i: (n, r) for i, n, r in got} == {row["merchant_id"]: (row["n_outlets"], row["nb_rejections"]) for row in finals}
    assert not np.isin(part.gamma["merchant_id"], part.aborted).any() and not np.isin(part.poisson["merchant_id"], part.aborted).any()


@pytest.mark.parametrize("case", VECTORS["nb_links_invalid"], ids=lambda c: c["why"])
def test_vectors_nb_links_invalid(case):
    eta = np.array([neumaier_dot(case["beta_mu"], case["x_mu"]), neumaier_dot(case["beta_phi"], case["x_phi"])])
    valid = bool(link_values(eta)[1].all())
    assert valid == (case["code"] is None)
