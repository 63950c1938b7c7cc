"""State S4 against the known answers of tests/vectors/s4.json, through files, compiled and by the slow path.

Every case is read from the file; another file of the same shape may be put in its place."""

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from s4_support import FAMILIES, VECTORS, completed, lineage_of, rewrite, stream_rows, vector_run

from seg1a.core.encoding import canonical_line
from seg1a.core.errors import Seg1aError
from seg1a.core.event_rows import event_program
from seg1a.core.rows import row_objects
from seg1a.core.tables import read_aborts
from seg1a.states.s4_corridors import moments, poisson_tail
from seg1a.states.s4_inputs import read_s4
from seg1a.states.s4_policy import ZtpPolicy, load_policy
from seg1a.states.s4_sampler import OUTCOMES, REGIMES, STREAMS, compute_s4, link, link_reference, regime_index
from seg1a.states.s4_validate import validate_s4, work_folder

PASSING = "a run that ends in PASS"
RUNS = {case["name"]: case for case in VECTORS["runs"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """name -> (case, run, code it ended with), each run made once."""
    made = {}

    def make(name: str):
        if name not in made:
            run = vector_run(tmp_path_factory.mktemp(name), RUNS[name])
            made[name] = RUNS[name], run, completed(run)
        return made[name]

    return make


@pytest.fixture(params=RUNS)
def done(request, finished):
    return finished(request.param)


def document(run, name: str) -> dict:
    return json.loads((work_folder(run) / name).read_bytes())


def close(a, b) -> bool:
    return a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-300))


# ---- runs, from the files that they leave -----------------------------------------------------------------------------


def test_files(done):
    case, run, _ = done
    observed = {family: stream_rows(run, family) for family in FAMILIES}
    assert {family: len(rows) for family, rows in observed.items()} == case["rows"]
    if "files_without_ts_utc" in case:
        assert observed == {family: case["files_without_ts_utc"].get(family) or [] for family in FAMILIES}
        assert stream_rows(run, "rng_trace_log") == case["trace_without_ts_utc"]


def test_digests(done):
    case, run, _ = done
    assert document(run, "validation_summary.json")["replay"]["digests"] == case["digests_without_ts_utc"]
    for family, expected in case["digests_without_ts_utc"].items():
        lines = b"".join(map(canonical_line, stream_rows(run, family)))
        assert (hashlib.sha256(lines).hexdigest() if lines else None) == expected, family


def test_counters_and_rates(done):
    case, run, _ = done
    metrics = document(run, "metrics.json")
    assert {name: metrics["metrics"][name] for name in case["counters"]} == case["counters"]
    assert metrics["attempts_hist"] == case["attempts_hist"]
    for name, expected in case["rates"].items():
        assert close(metrics["metrics"][name], expected), name


def test_corridors(done):
    case, run, _ = done
    rows = document(run, "corridors.json")["corridors"]
    assert [row["name"] for row in rows] == [row["name"] for row in case["corridors"]]
    for row, expected in zip(rows, case["corridors"]):
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            assert row[name] == value if name in ("name", "n", "status") else close(row[name], value), (row["name"], name)


def test_failures(done):
    case, run, _ = done
    observed = [{"merchant_id": a.merchant_id, "code": a.reason, "scope": "merchant", **a.detail} for a in read_aborts(run, "S4")]
    for row in observed:
        del row["reason"]
    assert observed == sorted(case["failures"], key=lambda row: row["merchant_id"])


def test_verdict(done):
    case, run, code = done
    broken = case["counters"]["s4.numeric_invalid"] + case["counters"]["s4.upstream_missing"] > 0 or any(row["status"] == "fail" for row in case["corridors"])
    assert (code is not None) == broken
    assert (run.state_bundle(4) / "_passed.flag").exists() == (not broken)
    assert set(document(run, "validation_summary.json")["failures_by_code"]) <= {row["code"] for row in case["failures"]} | {"CORRIDOR_BREACH"}


def test_merchant_lines(done):
    case, run, _ = done
    lines = [json.loads(line) for line in (work_folder(run) / "merchant_summary.jsonl").read_bytes().splitlines()]
    if case["outcomes"] is not None:
        names = ("merchant_id", "lambda_extra", "regime", "outcome", "K_target", "attempts", "rejections", "exhausted")
        assert [{name: line[name] for name in names} for line in lines] == [{name: row[name] for name in names} for row in case["outcomes"]]


# ---- runs, both paths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "slow"])
def test_both_paths(done, compiled):
    case, run, _ = done
    inputs = read_s4(run)
    (shard,) = inputs.shards()
    part = compute_s4(inputs.scope(shard)[0], inputs.policy, lineage_of(case).master, compiled=compiled)
    for family, stream_id in FAMILIES.items():
        rows = row_objects(event_program(stream_id, run.lineage), part.streams[stream_id])
        text = b"".join(canonical_line({key: value for key, value in row.items() if key != "ts_utc"}) for row in rows)
        assert (hashlib.sha256(text).hexdigest() if text else None) == case["digests_without_ts_utc"][family], family
    if case["outcomes"] is not None:
        m = part.merchants
        observed = zip(m["merchant_id"].tolist(), m["lambda_extra"].tolist(), [REGIMES[i] for i in m["regime"]], [OUTCOMES[i] for i in m["outcome"]], m["foreign"].tolist())
        assert list(observed) == [(o["merchant_id"], o["lambda_extra"], o["regime"], o["outcome"], o["A"]) for o in case["outcomes"]]


# ---- pieces -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS["link"], ids=lambda case: f"N{case['N']}-X{case['X']:.3g}-{case['theta0']}")
def test_link(case):
    policy = ZtpPolicy("1.0.0", "2025-11-03", *(float(case[name]) for name in ("theta0", "theta1", "theta2")))
    compiled = tuple(float(column[0]) for column in link(policy, np.array([case["N"]]), np.array([case["X"]])))
    for eta, lam in (compiled, link_reference(policy, case["N"], case["X"])):
        assert eta == float.fromhex(case["eta_hex"])
        assert math.isnan(lam) if "error" in case else lam == float.fromhex(case["lambda_hex"])
    if "error" not in case:
        assert REGIMES[regime_index(np.array([lam]))[0]] == case["regime"]


@pytest.mark.parametrize("case", VECTORS["regime"], ids=lambda case: repr(case["lambda"]))
def test_regime(case):
    assert REGIMES[regime_index(np.array([case["lambda"]]))[0]] == case["regime"]


@pytest.mark.parametrize("case", VECTORS["policy_cases"], ids=lambda case: case["name"])
def test_policy(case):
    if case["error"] is None:
        load_policy(case["yaml"].encode())
        return
    with pytest.raises(Seg1aError) as refused:
        load_policy(case["yaml"].encode())
    assert refused.value.code == case["error"]


@pytest.mark.parametrize("case", VECTORS["moments"], ids=lambda case: f"{case['lambda']}-{case['cap']}")
def test_moments(case):
    ours = moments(np.array([case["lambda"]]), case["cap"])
    for name in ("attempts_mean", "attempts_var", "ztp_mean", "ztp_var"):
        assert close(ours[name][0], case[name]), name


@pytest.mark.parametrize("case", VECTORS["poisson_tail"], ids=lambda case: f"{case['x']}-{case['mean']}")
def test_poisson_tail(case):
    assert close(poisson_tail(case["x"], case["mean"]), case["p"])


# ---- mutations: the validator has to see each of them -------------------------------------------------------------------


def apply(run, op: dict) -> None:
    """One operation on a stream; a field set to null is taken away."""
    family, rows = op["stream"], stream_rows(run, op["stream"])
    if op["op"] == "set":
        rows[op["index"]][op["field"]] = op["value"]
        rows[op["index"]] = {key: value for key, value in rows[op["index"]].items() if value is not None}
    elif op["op"] == "delete":
        del rows[op["index"]]
    elif op["op"] == "insert":
        rows = sorted([*rows, op["row"]], key=lambda row: (row["merchant_id"], row.get("attempt", row.get("attempts", 0))))
    else:
        assert op["op"] == "replace_all", op["op"]
        rows = op["rows"]
    rewrite(run, family, rows)


@pytest.mark.parametrize("case", VECTORS["validator_mutations"], ids=lambda case: case["name"])
def test_mutation(case, tmp_path):
    run = vector_run(tmp_path, RUNS[case["run"]])
    assert completed(run) is None, PASSING
    for op in case["ops"]:
        apply(run, op)
    report = validate_s4(run)
    assert not report.passed
    assert case["must_report"] in {f.code for f in report.findings}
    merchants = {m for m, code in case["reference_reports"] if code == case["must_report"]} - {None}
    assert merchants <= {f.merchant_id for f in report.findings if f.code == case["must_report"]}


def test_same_evidence_with_two_workers_elsewhere(finished, tmp_path):
    name = next(name for name, case in RUNS.items() if len(case["merchants"]) > 100)
    case, run, _ = finished(name)
    other = vector_run(tmp_path, case, workers=2)
    completed(replace(other, options=replace(other.options, s4_validation_output=str(tmp_path / "W"))))
    for path in sorted(work_folder(run).iterdir()):
        assert (other.work_dir(4) / path.name).read_bytes() == path.read_bytes(), path.name
    assert [stream_rows(run, family) for family in (*FAMILIES, "rng_trace_log")] == [stream_rows(other, family) for family in (*FAMILIES, "rng_trace_log")]
    assert len(STREAMS) == len(FAMILIES)
