"""S1 as a state: gates, refusals, damage found on disk, second starts, worker counts."""
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from s1_s2_support import VECTORS, end_to_end_run, lineage_of, tree, universe

from seg1a.core.errors import Seg1aError
from seg1a.core.events import part_path
from seg1a.core.numerics import logistic, neumaier_dot
from seg1a.core.run import Options, failure_path
from seg1a.states.replay import miniature_run
from seg1a.states.s1_hurdle import Design, HurdleModel, hurdle_reference, run_s1
from seg1a.states.s1_validate import validate_s1
from seg1a.states.s2_nb_outlets import run_s2

HURDLE = VECTORS["end_to_end"]["input"]["hurdle_coefficients"]
SKIP_S1 = Options(validate=(True, False, True, True, True))


def code_of(call, *args):
    with pytest.raises(Seg1aError) as error:
        call(*args)
    return error.value.code


def failure(run):
    return json.loads(failure_path(run.root, run.lineage).read_bytes())


def outputs(run):
    "Everything that S1 may have written, apart from the failure record."
    return {path for path in tree(run.root) if "hurdle_bernoulli" in path or "trace" in path or "s1_" in path or "/s1/" in path or "_tmp" in path}


def test_closed_gate_writes_nothing(tmp_path):
    run = end_to_end_run(tmp_path)
    (run.state_bundle(0) / "_passed.flag").unlink()
    assert code_of(run_s1, run) == "upstream_gate_closed"
    assert outputs(run) == set()
    record = failure(run)
    assert (record["state"], record["failure_class"], record["error_code"]) == ("S1", "F10", "upstream_gate_closed")


def test_missing_audit_row_writes_nothing(tmp_path):
    run = end_to_end_run(tmp_path)
    run.path("rng_audit_log").unlink()
    assert code_of(run_s1, run) == "rng_audit_missing_before_first_draw"
    assert outputs(run) == set()


def test_coefficients_changed_after_sealing(tmp_path):
    run = end_to_end_run(tmp_path)
    path = run.pack / "config" / "hurdle_coefficients.yaml"
    path.write_bytes(path.read_bytes().replace(b"-0.4375", b"-0.4376"))
    assert code_of(run_s1, run) == "E_ARTIFACT_UNSEALED"


@pytest.mark.parametrize("change, code", [
    ({"beta": HURDLE["beta"][:-1]}, "beta_length_mismatch"),
    ({"beta": HURDLE["beta"][:-1] + ["1e-7"]}, "coefficients_nonfinite"),
    ({"dicts": HURDLE["dicts"] | {"channel": ["CNP", "CP"]}}, "column_order_mismatch"),
    ({"dicts": HURDLE["dicts"] | {"gdp_bucket": [1, 2, 3, 5, 4]}}, "column_order_mismatch"),
    ({"dicts": HURDLE["dicts"] | {"mcc": [5411, 742, 5812, 7995, 8999, 4900]}}, "column_order_mismatch"),
    ({"dicts": HURDLE["dicts"] | {"mcc": [742, 5411, 5812, 7995, 8999, 4901]}}, "unknown_category"),
    ({"beta": [1.7e308] * len(HURDLE["beta"])}, "hurdle_nonfinite_eta"),
])
def test_broken_model_leaves_nothing(tmp_path, change, code):
    run = end_to_end_run(tmp_path, {"hurdle_coefficients.yaml": HURDLE | change})
    assert code_of(run_s1, run) == code == failure(run)["error_code"]
    assert outputs(run) == set()


def test_design_of_another_run(tmp_path):
    run = end_to_end_run(tmp_path)
    other = end_to_end_run(tmp_path / "other")
    foreign = miniature_run(tmp_path / "third", replace(other.lineage, parameter_hash="f" * 64), universe(5, HURDLE), {"hurdle_coefficients.yaml": HURDLE})
    run.path("hurdle_design_matrix").write_bytes(foreign.path("hurdle_design_matrix").read_bytes())
    assert code_of(run_s1, run) == "E_PARTITION_MISMATCH"


def test_skipped_validator_leaves_no_flag(tmp_path):
    run = end_to_end_run(tmp_path, options=SKIP_S1)
    summary = run_s1(run)
    assert (summary["validated"], summary["passed"]) == (False, None)
    folder = run.state_bundle(1)
    assert [path.name for path in folder.iterdir()] == ["validation_summary.json"]
    assert json.loads((folder / "validation_summary.json").read_bytes())["validated"] is False
    assert run_s2(run)["passed"]     # the run knows that S1 was skipped on purpose


def test_second_start_validates_only(tmp_path):
    run = end_to_end_run(tmp_path)
    run_s1(run)
    before = tree(run.root)
    run_s1(run)
    assert tree(run.root) == before


def test_second_start_after_s2_changes_nothing(tmp_path):
    run = end_to_end_run(tmp_path)
    run_s1(run), run_s2(run)
    before = tree(run.root)
    run_s1(run), run_s2(run)
    assert tree(run.root) == before


def test_fragments_are_refused(tmp_path):
    run = end_to_end_run(tmp_path)
    run_s1(run)
    run.path("state_outputs", state=1).unlink()
    assert code_of(run_s1, run) == "incomplete_dataset_instance"


def edit_line(path, row, change):
    lines = path.read_bytes().splitlines()
    value = json.loads(lines[row])
    change(value)
    lines[row] = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")


def edit_rows(path, change):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(lines)))


@pytest.mark.parametrize("name, value, code", [
    ("pi", 0.4455295350395728, "hurdle_pi_mismatch"), ("pi", "0.4", "hurdle_payload_violation"), ("is_multi", True, "hurdle_replay_mismatch"),
    ("is_multi", 1, "hurdle_payload_violation"), ("u", 0.25, "hurdle_replay_mismatch"), ("u", None, "deterministic_branch_inconsistent"), ("draws", "01", "rng_envelope_schema_violation"),
    ("rng_counter_before_lo", 5, "rng_counter_mismatch"), ("run_id", "0" * 32, "partition_mismatch"), ("manifest_fingerprint", "0" * 64, "partition_mismatch"),
    ("module", "1A.other", "substream_label_mismatch"), ("deterministic", True, "deterministic_branch_inconsistent"), ("extra", 1, "hurdle_payload_violation"),
    ("merchant_id", 2, "cardinality_mismatch"),
])
def test_changed_field_is_named(tmp_path, name, value, code):
    run = end_to_end_run(tmp_path)
    run_s1(run)
    edit_line(part_path(run, "hurdle_bernoulli", 0), 0, lambda row: row.update({name: value}))
    report = validate_s1(run)
    assert not report.passed and code in {finding.code for finding in report.findings}
    assert report.error().code == report.findings[0].code


@pytest.mark.parametrize("change, code", [
    (lambda lines: lines[1:], "cardinality_mismatch"),
    (lambda lines: [*lines, lines[0]], "duplicate_hurdle_record"),
    (lambda lines: [lines[0].replace(b'"u":', b'"v":'), *lines[1:]], "hurdle_payload_violation"),
    (lambda lines: [lines[0].replace(b'"blocks":1,', b""), *lines[1:]], "rng_envelope_schema_violation"),
    (lambda lines: [b"{nonsense\n", *lines[1:]], "rng_envelope_schema_violation"),
    (lambda lines: [b""], "cardinality_mismatch"),
])
def test_changed_rows_are_named(tmp_path, change, code):
    run = end_to_end_run(tmp_path)
    run_s1(run)
    edit_rows(part_path(run, "hurdle_bernoulli", 0), change)
    report = validate_s1(run)
    assert not report.passed and code in {finding.code for finding in report.findings}


@pytest.mark.parametrize("change", [
    lambda lines: lines[1:], lambda lines: lines[:-1], lambda lines: [*lines, lines[-1]], lambda lines: [lines[1], lines[0], *lines[2:]],
    lambda lines: [lines[0].replace(b'"events_total":1', b'"events_total":2'), *lines[1:]],
    lambda lines: [lines[0].replace(b'"draws_total":1', b'"draws_total":0'), *lines[1:]],
])
def test_changed_trace_is_found(tmp_path, change):
    run = end_to_end_run(tmp_path)
    run_s1(run)
    edit_rows(run.path("rng_trace_log"), change)
    codes = {finding.code for finding in validate_s1(run).findings}
    assert codes == {"rng_trace_missing_or_totals_mismatch"}


def test_foreign_file_and_part_of_no_shard(tmp_path):
    run = end_to_end_run(tmp_path)
    run_s1(run)
    part = part_path(run, "hurdle_bernoulli", 0)
    (part.parent / "part-00000.jsonl").write_bytes(b"")
    part_path(run, "hurdle_bernoulli", 1).write_bytes(b"")
    codes = [finding.code for finding in validate_s1(run).findings]
    assert codes == ["wrong_dataset_path"] * 2


def test_changed_catalogue_is_found(tmp_path):
    run = end_to_end_run(tmp_path)
    run_s1(run)
    path = run.path("s1_hurdle_catalogue")
    path.write_bytes(path.read_bytes().replace(b'"merchant_count": 36', b'"merchant_count": 37'))
    assert [finding.code for finding in validate_s1(run).findings] == ["catalogue_mismatch"]


def test_gated_rows_are_checked_again_after_s2(tmp_path):
    run = end_to_end_run(tmp_path)
    run_s1(run), run_s2(run)
    assert validate_s1(run).passed
    edit_line(part_path(run, "gamma_component", 0), 0, lambda row: row.update(merchant_id=1))
    assert [finding.code for finding in validate_s1(run).findings] == ["gating_violation_no_prior_hurdle_true"]


def test_every_stranger_in_a_gated_stream_is_named_once(tmp_path):
    run = end_to_end_run(tmp_path)
    run_s1(run), run_s2(run)
    for row, stranger in ((0, 2**62), (3, 1), (7, 2**62)):
        edit_line(part_path(run, "gamma_component", 0), row, lambda value, i=stranger: value.update(merchant_id=i))
    assert [finding.merchant_id for finding in validate_s1(run).findings] == [1, 2**62]


def test_rows_of_a_gated_stream_when_nobody_is_multi_site(tmp_path):
    with_rows, none = end_to_end_run(tmp_path / "a"), end_to_end_run(tmp_path / "b", {"hurdle_coefficients.yaml": HURDLE | {"beta": [-800.0] + [0.0] * 13}})
    run_s1(with_rows), run_s2(with_rows), run_s1(none)
    source, place = part_path(with_rows, "nb_final", 0), part_path(none, "nb_final", 0)
    place.parent.mkdir(parents=True)
    place.write_bytes(source.read_bytes())
    merchants = sorted(json.loads(line)["merchant_id"] for line in source.read_bytes().splitlines())
    assert [finding.merchant_id for finding in validate_s1(none).findings] == merchants


coefficient = st.one_of(st.floats(-20.0, 20.0), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1e308, -1e308]))


@given(st.lists(coefficient, min_size=9, max_size=30), st.data())
def test_columns_of_zeros_change_no_bit_of_a_dot_product(beta, data):
    filled = sorted(data.draw(st.sets(st.integers(0, len(beta) - 1), max_size=5)))
    values = [data.draw(st.sampled_from([1.0, 9.1, 0.0, -3.5])) for _ in filled]
    x = [0.0] * len(beta)
    for i, value in zip(filled, values):
        x[i] = value
    full, short = neumaier_dot(beta, x), neumaier_dot([beta[i] for i in filled], values)
    assert repr(full) == repr(short)      # -0.0 is not 0.0; not finite stays not finite
    model = HurdleModel(tuple(range(len(beta) - 8)), np.array(beta))
    design = Design(*(np.array([v]) for v in (7, data.draw(st.integers(0, len(beta) - 9)), data.draw(st.integers(0, 1)), data.draw(st.integers(0, 4)))))
    x = [0.0] * len(beta)
    for i in (0, 1 + design.mcc_index[0], len(beta) - 7 + design.channel_index[0], len(beta) - 5 + design.bucket_index[0]):
        x[i] = 1.0
    if np.isfinite(eta := neumaier_dot(beta, x)):
        assert hurdle_reference(design, 0, model, bytes(32))["pi"].hex() == logistic(eta).hex()


def test_fail_leaves_evidence_and_no_flag(tmp_path):
    run = end_to_end_run(tmp_path)
    run_s1(run)
    edit_line(part_path(run, "hurdle_bernoulli", 0), 0, lambda row: row.update(u=0.25))
    fresh = run.state_bundle(1)
    (fresh / "_passed.flag").unlink()
    assert code_of(run_s1, run) == "hurdle_replay_mismatch"
    names = {path.name for path in fresh.iterdir()}
    assert "_passed.flag" not in names and {"report.json", "metrics.json", "failures.jsonl", "validation_summary.json"} <= names
    assert json.loads((fresh / "report.json").read_bytes())["verdict"] == "FAIL"
    assert failure(run)["error_code"] == "hurdle_replay_mismatch"
    assert code_of(run_s2, run) == "upstream_gate_closed"


def test_evidence_of_another_run_is_not_overwritten(tmp_path):
    run = end_to_end_run(tmp_path)
    run_s1(run)
    path = run.state_bundle(1) / "metrics.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": 42', b'"seed": 43'))
    before = tree(run.state_bundle(1))
    assert code_of(run_s1, run) == "bundle_lineage_conflict"
    assert tree(run.state_bundle(1)) == before


def test_worker_counts_write_the_same_bytes(tmp_path):
    "Three shards, the last one short: one worker and three write the same trees, and both validate."
    columns, trees = universe(2 * 32_768 + 1_000, HURDLE | {"dicts": HURDLE["dicts"]}), []
    model = HURDLE | {"beta": [-1.0] + [0.0] * 13, "beta_mu": [2.5] + [0.0] * 8}
    dispersion = {"dicts": {k: HURDLE["dicts"][k] for k in ("mcc", "channel")}, "beta_phi": [1.5] + [0.0] * 9}
    policy = {"s2": {"corridors": {"rho_reject_max": 0.06, "p99_max": 3}, "cusum": {"reference_k": 0.5, "alpha_cap": 0.95, "false_alarm": 1e-4}}}
    files = {"hurdle_coefficients.yaml": model, "nb_dispersion_coefficients.yaml": dispersion, "validation_policy.yaml": policy}
    for workers in (1, 3):
        run = miniature_run(tmp_path / str(workers), lineage_of(VECTORS["end_to_end"]["input"]["run"]), columns, files, workers=workers)
        one, two = run_s1(run), run_s2(run)
        assert one["passed"] and two["passed"]
        trees.append(tree(run.root))
    assert trees[0] == trees[1]
    assert one["metrics"]["merchants"] == columns["merchant_id"].size and abs(one["metrics"]["z_multi"]) < 5
    assert abs(two["metrics"]["mean_z"]) < 5 / np.sqrt(two["metrics"]["n"]) and 0.9 < two["metrics"]["pearson_dispersion"] < 1.1
