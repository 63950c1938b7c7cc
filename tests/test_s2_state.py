"""S2 as a state: gates, policies, watchdog, corridors, damage found on disk, emptiness."""
import csv
import hashlib
import json

import numpy as np
import pytest
from s1_s2_support import VECTORS, end_to_end_run, lineage_of, tree, universe

from seg1a.core.errors import Seg1aError
from seg1a.core.events import part_path
from seg1a.core.run import Options, failure_path
from seg1a.core.tables import MerchantAbort, read_aborts, write_aborts
from seg1a.states.replay import miniature_run
from seg1a.states.s1_hurdle import run_s1
from seg1a.states.s2_corridors import corridor_policy, cusum_columns, cusum_csv, evaluate_corridors
from seg1a.states.s2_nb_outlets import STREAMS, run_s2
from seg1a.states.s2_validate import EVENT_CODES, validate_s2

INPUT = VECTORS["end_to_end"]["input"]
HURDLE, DISPERSION = INPUT["hurdle_coefficients"], INPUT["nb_dispersion_coefficients"]
POLICY = {"corridors": {"rho_reject_max": 0.45, "p99_max": 9}, "cusum": {"reference_k": 0.5, "threshold_h": 24.0}}


def code_of(call, *args):
    with pytest.raises(Seg1aError) as error:
        call(*args)
    return error.value.code


def after_s1(root, changes=None, options=Options()):
    run = end_to_end_run(root, changes, options)
    run_s1(run)
    return run


def failure(run):
    return json.loads(failure_path(run.root, run.lineage).read_bytes())


def edit_line(path, row, change):
    lines = path.read_bytes().splitlines()
    value = json.loads(lines[row])
    change(value)
    lines[row] = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")


def event_files(run):
    return [path for stream in STREAMS for path in part_path(run, stream, 0).parent.rglob("*") if path.is_file()]


def test_gate_of_s1(tmp_path):
    run = end_to_end_run(tmp_path)
    assert code_of(run_s2, run) == "upstream_gate_closed"
    assert event_files(run) == [] and failure(run)["state"] == "S2"


@pytest.mark.parametrize("policy", [
    {}, {"s1": {}}, {"s2": None}, {"s2": {"corridors": POLICY["corridors"]}}, {"s2": POLICY | {"cusum": {"reference_k": 0.5}}},
    {"s2": POLICY | {"cusum": POLICY["cusum"] | {"false_alarm": 1e-4}}}, {"s2": POLICY | {"typo": 1}},
])
def test_policy_fails_closed_before_a_draw(tmp_path, policy):
    run = after_s1(tmp_path, {"validation_policy.yaml": policy})
    assert code_of(run_s2, run) == "ERR_S2_CORRIDOR_POLICY_MISSING"
    assert event_files(run) == []


@pytest.mark.parametrize("name, change, code", [
    ("hurdle_coefficients.yaml", {"beta_mu": HURDLE["beta_mu"][:-1]}, "ERR_S2_INPUTS_INCOMPLETE:beta_mu"),
    ("nb_dispersion_coefficients.yaml", {"beta_phi": DISPERSION["beta_phi"] + [0.0]}, "ERR_S2_INPUTS_INCOMPLETE:beta_phi"),
    ("nb_dispersion_coefficients.yaml", {"dicts": DISPERSION["dicts"] | {"mcc": DISPERSION["dicts"]["mcc"][::-1]}}, "ERR_S2_INPUTS_INCOMPLETE:dicts"),
    ("nb_dispersion_coefficients.yaml", {"s2_max_attempts": 1}, "ERR_S2_ATTEMPT_LIMIT"),
])
def test_run_aborts_leave_nothing(tmp_path, name, change, code):
    whole = {"hurdle_coefficients.yaml": HURDLE, "nb_dispersion_coefficients.yaml": DISPERSION}[name]
    run = after_s1(tmp_path, {name: whole | change})
    trace = run.path("rng_trace_log").read_bytes()
    assert code_of(run_s2, run) == code == failure(run)["error_code"]
    assert event_files(run) == [] and run.path("rng_trace_log").read_bytes() == trace
    assert not any("_tmp" in path or "s2_nb_catalogue" in path or "abort" in path for path in tree(run.root))


def test_evidence_of_a_pass(tmp_path):
    run = after_s1(tmp_path)
    summary = run_s2(run)
    folder = run.state_bundle(2)
    assert sorted(path.name for path in folder.iterdir()) == ["_passed.flag", "corridors.json", "cusum_trace.csv", "metrics.csv", "metrics.json", "report.json"]
    attestation = json.loads((folder / "corridors.json").read_bytes())
    path = list(csv.DictReader((folder / "cusum_trace.csv").read_text().splitlines()))
    order = np.array([int(row["merchant_id"]) for row in path], "<i8")
    assert attestation["order_sha256"] == hashlib.sha256(order.tobytes()).hexdigest()
    assert attestation["policy"]["sha256"] == hashlib.sha256(run.artefact("validation_policy.yaml")).hexdigest()
    assert max(float(row["cusum"]) for row in path) == attestation["cusum_max"] == summary["metrics"]["cusum_max"]
    header, values = (folder / "metrics.csv").read_text().splitlines()
    assert [json.loads(v) for v in values.split(",")] == [summary["metrics"][name] for name in header.split(",")]
    assert all(row["coverage_ok"] for row in summary["rng"]) and len(summary["rng"]) == 3


def test_the_corridors_are_about_the_rows_on_disk(tmp_path):
    run = after_s1(tmp_path)
    run_s2(run)
    rows = [json.loads(line) for line in part_path(run, "nb_final", 0).read_bytes().splitlines()]
    ids, mu, phi, rejections = (np.array([row[name] for row in rows]) for name in ("merchant_id", "mu", "dispersion_k", "nb_rejections"))
    report = validate_s2(run)
    again = evaluate_corridors(report.inputs.policy, ids, mu, phi, rejections)
    assert again.metrics == report.corridors.metrics and again.order.tolist() == report.corridors.order.tolist()
    count = next(check for check in report.checks if check.id == "counts")
    assert count.checked == len(part_path(run, "poisson_component_nb", 0).read_bytes().splitlines()) == int((rejections + 1).sum())


@pytest.mark.parametrize("kind", sorted(EVENT_CODES))
def test_no_difference_of_a_part_is_without_a_finding(kind):
    assert None not in EVENT_CODES[kind].values()      # else a part that differs could pass for the replay


def test_cusum_and_its_table_are_those_of_plain_python():
    rng = np.random.default_rng(9)
    alpha = rng.choice([0.3, 0.9, 0.999, 1.0, 1e-16], 5000)
    rejections = rng.geometric(np.maximum(alpha, 0.01)) - 1
    walk, s, path = cusum_columns(alpha, rejections, 0.5, 0.999), 0.0, []
    for z in walk["z_score"].tolist():
        s = max(0.0, s + (z - 0.5))
        path.append(s)
    assert walk["cusum"].tolist() == path and max(path) > 0.0 in path
    mu, phi = rng.lognormal(1.0, 1.0, 5000), rng.lognormal(1.0, 1.0, 5000)
    corridors = evaluate_corridors(corridor_policy(POLICY), np.cumsum(rng.integers(1, 2**50, 5000)), mu, phi, rejections)
    columns = [corridors.order.tolist(), *(corridors.trace[name].tolist() for name in ("alpha", "rejections", "expected", "variance", "z_score", "cusum"))]
    assert cusum_csv(corridors).decode().splitlines()[1:] == [",".join(map(repr, row)) for row in zip(*columns)]


def test_corridor_breach_leaves_evidence_and_no_flag(tmp_path):
    tight = {"s2": {"corridors": {"rho_reject_max": 0.01, "p99_max": 0}, "cusum": {"reference_k": 0.01, "threshold_h": 0.1}}}
    run = after_s1(tmp_path, {"validation_policy.yaml": tight})
    assert code_of(run_s2, run) == "corridor_breach:rho" == failure(run)["error_code"]
    folder = run.state_bundle(2)
    assert not (folder / "_passed.flag").exists()
    attestation = json.loads((folder / "corridors.json").read_bytes())
    assert (attestation["status"], attestation["breaches"]) == ("FAIL", ["rho", "p99", "cusum"])
    assert (folder / "cusum_trace.csv").stat().st_size > 100 and (folder / "metrics.csv").is_file()
    codes = [json.loads(line)["code"] for line in (folder / "failures.jsonl").read_bytes().splitlines()]
    assert codes == ["corridor_breach:rho", "corridor_breach:p99", "corridor_breach:cusum"]
    assert json.loads((folder / "validation_summary.json").read_bytes())["passed"] is False
    assert len(event_files(run)) == 3      # what was drawn stays; it is evidence too


def test_false_alarm_policy_computes_its_limit(tmp_path):
    policy = {"s2": {"corridors": POLICY["corridors"], "cusum": {"reference_k": 0.5, "alpha_cap": 0.95, "false_alarm": 1e-4}}}
    run = after_s1(tmp_path, {"validation_policy.yaml": policy})
    run_s2(run)
    attestation = json.loads((run.state_bundle(2) / "corridors.json").read_bytes())
    assert attestation["policy"]["cusum"] == policy["s2"]["cusum"]
    assert attestation["threshold_h"] == pytest.approx(np.log(10 / 1e-4) / attestation["theta_star"])


@pytest.mark.parametrize("changes, finals, aborts", [
    ({"hurdle_coefficients.yaml": HURDLE | {"beta": [-800.0] + [0.0] * 13}}, 0, 0),             # nobody is multi-site
    ({"nb_dispersion_coefficients.yaml": DISPERSION | {"beta_phi": [-800.0] + [0.0] * 9}}, 0, 20),   # everybody breaks
])
def test_no_final_is_a_pass(tmp_path, changes, finals, aborts):
    run = after_s1(tmp_path, changes)
    summary = run_s2(run)
    assert summary["passed"] and (summary["accepted_merchants"], summary["aborted_merchants"]) == (finals, aborts)
    assert event_files(run) == [] and summary["metrics"]["rho_reject"] is None
    attestation = json.loads((run.state_bundle(2) / "corridors.json").read_bytes())
    assert (attestation["status"], attestation["insufficient"], attestation["threshold_h"]) == ("PASS", True, 24.0)
    assert (run.state_bundle(2) / "metrics.csv").read_text().splitlines()[1] == ",,,0,0,0,0"
    assert any("insufficient" in line for line in summary["warnings"])
    assert run.path("merchant_abort_log").exists() == bool(aborts)


def test_second_start_and_fragments(tmp_path):
    run = after_s1(tmp_path)
    run_s2(run)
    before = tree(run.root)
    run_s2(run)
    assert tree(run.root) == before
    run.path("state_outputs", state=2).unlink()
    assert code_of(run_s2, run) == "incomplete_dataset_instance"


def test_skipped_validator(tmp_path):
    run = after_s1(tmp_path, options=Options(validate=(True, True, False, True, True)))
    assert run_s2(run)["validated"] is False
    assert [path.name for path in run.state_bundle(2).iterdir()] == ["validation_summary.json"]


@pytest.mark.parametrize("stream, row, change, code", [
    ("gamma_component", 0, {"merchant_id": 1}, "branch_purity_violation"),
    ("gamma_component", 1, {"gamma_value": 2.2792668114324566}, "replay_mismatch"),
    ("gamma_component", 0, {"alpha": 2.786116858593736}, "nb_final_echo_mismatch"),
    ("gamma_component", 0, {"context": 7}, "schema_violation"),
    ("gamma_component", 0, {"index": 1}, "schema_violation"),
    ("gamma_component", 0, {"gamma_value": 0.0}, "schema_violation"),
    ("gamma_component", 0, {"parameter_hash": "0" * 64}, "partition_misuse"),
    ("gamma_component", 0, {"rng_counter_before_lo": 1}, "rng_consumption_violation"),
    ("poisson_component_nb", 0, {"lambda": 13.62256865586173}, "composition_mismatch"),
    ("poisson_component_nb", 7, {"k": 2}, "replay_mismatch"),
    ("poisson_component_nb", 7, {"draws": "2"}, "rng_budget_violation"),
    ("poisson_component_nb", 0, {"k": -1}, "schema_violation"),
    ("nb_final", 0, {"mu": 7.389056098930651}, "nb_final_echo_mismatch"),
    ("nb_final", 0, {"n_outlets": 15}, "nb_final_outcome_mismatch"),
    ("nb_final", 0, {"nb_rejections": 1}, "nb_final_outcome_mismatch"),
    ("nb_final", 0, {"n_outlets": 1}, "schema_violation"),
    ("nb_final", 0, {"blocks": 1, "rng_counter_after_lo": 2575956167236705161}, "rng_consumption_violation"),
])
def test_changed_field_is_named(tmp_path, stream, row, change, code):
    run = after_s1(tmp_path)
    run_s2(run)
    edit_line(part_path(run, stream, 0), row, lambda value: value.update(change))
    report = validate_s2(run)
    assert not report.passed and code in {finding.code for finding in report.findings}
    assert report.corridors is None and report.checks[-1].status == "skipped"     # structure first


@pytest.mark.parametrize("stream", STREAMS)
def test_missing_and_doubled_rows(tmp_path, stream):
    run = after_s1(tmp_path)
    run_s2(run)
    part = part_path(run, stream, 0)
    lines = part.read_bytes().splitlines(keepends=True)
    for damaged in (lines[1:], lines + lines[:1]):
        part.write_bytes(b"".join(damaged))
        assert "event_coverage_gap" in {finding.code for finding in validate_s2(run).findings}
    part.unlink()
    assert "event_coverage_gap" in {finding.code for finding in validate_s2(run).findings}


def test_abort_log_must_be_the_replay(tmp_path):
    run = after_s1(tmp_path)
    run_s2(run)
    aborts = read_aborts(run, "S2")
    write_aborts(run, "S2", aborts[1:])
    assert {finding.code for finding in validate_s2(run).findings} == {"event_coverage_gap"}
    finished = MerchantAbort(2135427181116639195, "S2", "1A.nb_sampler", "ERR_S2_NUMERIC_INVALID", {"attempt": 1})
    write_aborts(run, "S2", [*aborts, finished])
    assert {finding.code for finding in validate_s2(run).findings} == {"partial_components"}


@pytest.mark.parametrize("change", [lambda lines: lines[:-1], lambda lines: lines[:-1] + lines[-1:] * 2, lambda lines: lines[:40] + lines[41:] + lines[40:41]])
def test_changed_trace_is_found(tmp_path, change):
    run = after_s1(tmp_path)
    run_s2(run)
    path = run.path("rng_trace_log")
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    assert {finding.code for finding in validate_s2(run).findings} == {"rng_trace_missing_or_totals_mismatch"}


def test_changed_catalogue_and_stray_file(tmp_path):
    run = after_s1(tmp_path)
    run_s2(run)
    (part_path(run, "nb_final", 0).parent / "notes.txt").write_bytes(b"x")
    assert {finding.code for finding in validate_s2(run).findings} == {"wrong_dataset_path"}
    (part_path(run, "nb_final", 0).parent / "notes.txt").unlink()
    path = run.path("s2_nb_catalogue")
    path.write_bytes(path.read_bytes().replace(b'"p99_rejections": 2', b'"p99_rejections": 1'))
    assert {finding.code for finding in validate_s2(run).findings} == {"catalogue_mismatch"}


def test_seeds_and_thresholds(tmp_path):
    "Another policy moves no draw; another seed moves them."
    model = HURDLE | {"beta": [0.0] * 14, "beta_mu": [2.5] + [0.0] * 8}
    files = {"hurdle_coefficients.yaml": model, "nb_dispersion_coefficients.yaml": DISPERSION | {"beta_phi": [1.5] + [0.0] * 9}}
    policies = [{"s2": POLICY}, {"s2": POLICY | {"corridors": {"rho_reject_max": 0.2, "p99_max": 5}}}, {"s2": POLICY}]
    drawn = []
    for n, (policy, seed) in enumerate(zip(policies, (42, 42, 43))):
        lineage = lineage_of(INPUT["run"] | {"seed": seed, "manifest_fingerprint": f"{n:064x}"})
        run = miniature_run(tmp_path / str(n), lineage, universe(500, model), files | {"validation_policy.yaml": policy})
        run_s1(run), run_s2(run)
        rows = [json.loads(line) for line in part_path(run, "nb_final", 0).read_bytes().splitlines()]
        drawn.append({row["merchant_id"]: (row["n_outlets"], row["rng_counter_before_lo"]) for row in rows})
    assert drawn[0] == drawn[1] and drawn[0] != drawn[2]
