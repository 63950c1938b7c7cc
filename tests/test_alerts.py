"""Alerts: for each rule a run where it fires and one where it does not; damaged runs; the formats."""

import json
import shutil
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from seg1a.core.contracts import contracts
from seg1a.core.encoding import canonical_line
from seg1a.core.flags import FLAG, write_flag
from seg1a.core.run import STATE_FOLDERS, Lineage
from seg1a.operations.alert_rules import ALERT_RULES, CRITICAL, WARNING, fires
from seg1a.operations.alerts import alert_limits, alerts_command, prometheus_text, read_evidence, run_alerts

LINEAGE = Lineage(2**64 - 1, "a" * 64, "b" * 64, "c" * 32, 1_700_000_000_000_000_000)
TOKENS = LINEAGE.tokens()
STAMP = {"pack_version": "2025-11", "checksums_sha256": "d" * 64, "parameter_hash": "a" * 64, "manifest_fingerprint": "b" * 64,
         "cli_flags": {"validate": [True] * 5, "expect_parameter_hash": "a" * 64, "expect_manifest_fingerprint": None}}


def state(number: int, metrics: dict, rows: dict, rng: list) -> dict:
    return {"state": f"S{number}", "validated": True, "passed": True, "metrics": metrics, "rows": rows, "rng": rng}


def account(events: int) -> list:
    return [{"module": "m", "substream_label": "l", "events": events, "events_total": events, "draws_total": events, "blocks_total": events}]


def corridor(name: str, **values) -> dict:
    return {"name": name, "n": 500, "status": "pass", **values}


def healthy() -> dict:
    """Everything that the alerts read of a run, by place."""
    s3 = {"schema_validated": 1, "failed_merchant_count": 0, "merchant_count": 900, "eligible_crossborder_merchants": 600, "integerisation_enabled": 1,
          "integerised_merchants": 900, "integerised_rows": 4000, "integerisation_floor_hits": 40, "integerisation_ceiling_hits": 10, "integerisation_multi_round_merchants": 0}
    s4 = {"s4.sampled": 500, "s4.exhaustion_rate": 0.002, "s4.numeric_invalid": 0, "s4.upstream_missing": 0}
    corridors = [corridor("first_attempt_acceptance", z=0.4), corridor("attempt_acceptance", z=-1.0), corridor("attempts_total", z=0.2), corridor("k_sum.inversion", z=1.1),
                 corridor("k_sum.ptrs", z=None, status="insufficient"), corridor("k_dispersion.ptrs", z=-0.7), corridor("exhaustion_excess", tail_p=0.4),
                 corridor("exhaustion_rate", observed=0.002), corridor("mean_attempts", observed=1.3)]
    return {
        "stamp": json.loads(json.dumps(STAMP)), "summary": {"run": {"failure": None, "seconds": {"S0": 1.5}}, "gate": {"status": "PASS"}, "seed": 1},
        "states": [state(0, {}, {"hurdle_design_matrix": 3000}, []), state(1, {"multi": 900, "z_multi": 0.8}, {"rng_event_hurdle_bernoulli": 3000}, account(3000)),
                   state(2, {}, {"rng_event_nb_final": 900}, account(900) + account(950)), state(3, s3, {"s3_candidate_set": 4000}, []), state(4, s4, {"rng_event_ztp_final": 500}, account(1200))],
        "s0_validation_summary.json": {"checks": [{"id": "V4", "ok": True, "detail": ""}]}, "numeric_policy_attest.json": {"passed": True},
        "s2_nb_outlets/report.json": {"validators": {name: {"failures_count": 0} for name in ("consumption", "replay", "trace")}},
        "s2_nb_outlets/corridors.json": {"policy": {"corridors": {"rho_reject_max": 0.06, "p99_max": 3}, "cusum": {"reference_k": 0.5, "false_alarm": 1e-4}},
                                         "rho_reject": 0.014, "p99_rejections": 1, "cusum_max": 11.0, "threshold_h": 40.0},
        "s4_ztp_target/corridors.json": {"thresholds": {"exhaustion_rate_warn": 0.01}, "corridors": corridors},
        "alerts.json": {"limits": {"s1.z_warn": 4.0, "s1.z_fail": 6.0, "s3.eligible_share_min": 0.3, "s3.eligible_share_max": 0.9}},
        "audit_rows": 1, "diagnostics": {"floor": 9, "ceiling": 9, "merchants": 900}, "flag0": True,
    }


def write_root(root: Path, run: dict) -> Path:
    """The run on disk. A place that is None is not written."""
    def put(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def place(dataset_id: str, **tokens) -> Path:
        return root / contracts().path(dataset_id, **TOKENS, **tokens)

    put(root / "run_root.json", canonical_line(LINEAGE.record()))
    put(root / "run_summary.json", canonical_line(run["summary"]))
    s0 = place("s0_validation_bundle")
    if run["stamp"]:
        put(s0 / "execution_stamp.json", canonical_line(run["stamp"]))
        put(s0 / "validation_summary.json", canonical_line({"passed": True}))
    for number, summary in enumerate(run["states"]):
        if summary is not None:
            put(place("validation_work", state=number) / "summary.json", canonical_line(summary))
            folder = place(STATE_FOLDERS[number]) if number else s0
            put(folder / "validation_summary.json", canonical_line({"passed": summary["passed"]}))
    for name in (name for name in run if name.endswith(".json") and run[name] is not None):
        put(place("validation_bundle_1A") / name, canonical_line(run[name]))
    put(place("rng_audit_log"), b'{"row": 1}\n' * run["audit_rows"])
    counts = run["diagnostics"]
    if counts:
        lines = ({"integerisation_floor_hits": int(i < counts["floor"]), "integerisation_ceiling_hits": 2 * (i < counts["ceiling"]) if counts["ceiling"] is not None else None} for i in range(counts["merchants"]))
        put(place("s3_crossborder_universe") / "integerisation_diagnostics.jsonl", b"".join(map(canonical_line, lines)))
    if run["flag0"]:
        write_flag(s0, [f"run_id={TOKENS['run_id']}"])
    return root


def rows_of(root: Path, **options) -> dict:
    """(id, severity, metric) -> rows."""
    found: dict = {}
    for row in run_alerts(root, **options):
        found.setdefault((row["id"], row["severity"], row["metric"]), []).append(row)
    return found


def summary_failure(run, **failure):
    run["summary"]["run"]["failure"] = failure


def exhausted(run, rate):
    run["states"][4]["metrics"]["s4.exhaustion_rate"] = rate
    by_name(run)["exhaustion_rate"]["observed"] = rate


def by_name(run) -> dict:
    return {row["name"]: row for row in run["s4_ztp_target/corridors.json"]["corridors"]}


def switched_off(run, *states):
    for number in states:
        run["stamp"]["cli_flags"]["validate"][number] = False


# What makes each rule fire, in a run that is healthy otherwise.
FIRING = {
    ("stage_checksum_mismatch", CRITICAL, "stage.files_refused"): lambda run: summary_failure(run, code="E_PACK_DIGEST"),
    ("stage_engine_started_after_failure", CRITICAL, "stage.started_unverified"): lambda run: run["stamp"].update(checksums_sha256=None),
    ("s0_flag_missing", CRITICAL, "s0.flag_valid"): lambda run: run.update(flag0=False),
    ("s0_schema_drift", CRITICAL, "s0.schema_violations"): lambda run: run["s0_validation_summary.json"]["checks"][0].update(ok=False),
    ("s0_identity_mismatch", CRITICAL, "s0.identities_differing"): lambda run: run["stamp"]["cli_flags"].update(expect_manifest_fingerprint="e" * 64),
    ("s0_numeric_attest", CRITICAL, "s0.self_tests_passed"): lambda run: run["numeric_policy_attest.json"].update(passed=False),
    ("s1_validation_failed", CRITICAL, "s1.validation_passed"): lambda run: run["states"][1].update(passed=False),
    ("s1_trace_missing", CRITICAL, "s1.trace_rows_minus_events"): lambda run: run["states"][1]["rng"][0].update(events_total=2999),
    ("s1_audit_missing", CRITICAL, "rng.audit_rows"): lambda run: run.update(audit_rows=2),
    ("s1_multi_rate", WARNING, "s1.z_multi"): lambda run: run["states"][1]["metrics"].update(z_multi=-4.1),
    ("s1_multi_rate", CRITICAL, "s1.z_multi"): lambda run: run["states"][1]["metrics"].update(z_multi=6.1),
    ("s2_validation_failed", CRITICAL, "s2.validation_passed"): lambda run: run["states"][2].update(passed=False),
    ("s2_corridor_rho", CRITICAL, "s2.rho_reject"): lambda run: run["s2_nb_outlets/corridors.json"].update(rho_reject=0.0601),
    ("s2_corridor_p99", CRITICAL, "s2.p99_rejections"): lambda run: run["s2_nb_outlets/corridors.json"].update(p99_rejections=4),
    ("s2_corridor_cusum", CRITICAL, "s2.cusum_max"): lambda run: run["s2_nb_outlets/corridors.json"].update(cusum_max=40.0),
    ("s2_rng_budget", CRITICAL, "s2.rng_discrepancies"): lambda run: run["s2_nb_outlets/report.json"]["validators"]["replay"].update(failures_count=1),
    ("s2_final_missing", CRITICAL, "s2.finals_missing"): lambda run: run["states"][1]["metrics"].update(multi=901),
    ("s3_validation_failed", CRITICAL, "s3.validation_passed"): lambda run: run["states"][3].update(passed=False),
    ("s3_schema_failed", CRITICAL, "s3.schema_validated"): lambda run: run["states"][3]["metrics"].update(schema_validated=0),
    ("s3_schema_failed", CRITICAL, "s3.failed_merchants"): lambda run: run["states"][3]["metrics"].update(failed_merchant_count=1),
    ("s3_floor_hits", WARNING, "s3.floor_merchants"): lambda run: run["diagnostics"].update(floor=46),
    ("s3_floor_hits", CRITICAL, "s3.floor_merchants"): lambda run: run["diagnostics"].update(floor=181),
    ("s3_ceiling_hits", WARNING, "s3.ceiling_merchants"): lambda run: run["diagnostics"].update(ceiling=46),
    ("s3_ceiling_hits", CRITICAL, "s3.ceiling_merchants"): lambda run: run["diagnostics"].update(ceiling=181),
    ("s3_ceiling_rows", WARNING, "s3.ceiling_rows"): lambda run: run["states"][3]["metrics"].update(integerisation_ceiling_hits=41),
    ("s3_multi_round", WARNING, "s3.multi_round_share"): lambda run: run["states"][3]["metrics"].update(integerisation_multi_round_merchants=1),
    ("s3_eligible_share", WARNING, "s3.eligible_share"): lambda run: run["states"][3]["metrics"].update(eligible_crossborder_merchants=811),
    ("s3_candidate_missing", CRITICAL, "s3.candidates_missing"): lambda run: run["states"][3]["metrics"].update(merchant_count=899),
    ("s4_validation_failed", CRITICAL, "s4.validation_passed"): lambda run: run["states"][4].update(passed=False),
    ("s4_trace_missing", CRITICAL, "s4.trace_rows_minus_events"): lambda run: run["states"][4]["rng"][0].update(events_total=1201),
    ("s4_exhaustion_spike", WARNING, "s4.exhaustion_rate"): lambda run: exhausted(run, 0.011),
    ("s4_exhaustion_spike", CRITICAL, "s4.exhaustion_rate_judged"): lambda run: exhausted(run, 0.051),
    ("s4_exhaustion_spike", CRITICAL, "s4.exhaustion_tail_p"): lambda run: by_name(run)["exhaustion_excess"].update(tail_p=9e-7),
    ("s4_exhaustion_jump", WARNING, "s4.exhaustion_rate_rise"): lambda run: exhausted(run, 0.0081),
    ("s4_numeric_invalid", CRITICAL, "s4.numeric_invalid"): lambda run: run["states"][4]["metrics"].update({"s4.numeric_invalid": 1}),
    ("s4_upstream_missing", CRITICAL, "s4.upstream_missing"): lambda run: run["states"][4]["metrics"].update({"s4.upstream_missing": 1}),
    ("s4_mean_attempts_high", WARNING, "s4.mean_attempts"): lambda run: by_name(run)["mean_attempts"].update(observed=3.1),
    ("s4_mean_attempts_high", CRITICAL, "s4.mean_attempts"): lambda run: by_name(run)["mean_attempts"].update(observed=8.1),
    ("s4_acceptance_drift", WARNING, "s4.acceptance_z"): lambda run: by_name(run)["attempts_total"].update(z=-4.1),
    ("s4_acceptance_drift", CRITICAL, "s4.acceptance_z"): lambda run: by_name(run)["attempt_acceptance"].update(z=6.1),
    ("s4_k_drift", WARNING, "s4.k_z"): lambda run: by_name(run)["k_sum.inversion"].update(z=4.1),
    ("s4_k_drift", CRITICAL, "s4.k_z"): lambda run: by_name(run)["k_sum.ptrs"].update(z=129.0, status="fail"),
    ("s4_validation_skipped", CRITICAL, "s4.validation_skipped"): lambda run: switched_off(run, 4),
    ("validation_skipped", CRITICAL, "run.states_unproved"): lambda run: switched_off(run, 2),
    ("artefact_version_unrecorded", CRITICAL, "promotion.version_recorded"): lambda run: run["stamp"].update(pack_version=None),
    ("promotion_not_atomic", CRITICAL, "promotion.files_different"): lambda run: run["summary"].update(promotion={"files_different": 1, "conflicts": 0}),
    ("promotion_conflict", CRITICAL, "promotion.conflicts"): lambda run: run["summary"].update(promotion={"files_different": 0, "conflicts": 1}),
}


@pytest.fixture(scope="module")
def healthy_rows(tmp_path_factory):
    return rows_of(write_root(tmp_path_factory.mktemp("healthy"), healthy()), baseline=0.002)


def test_the_table_is_covered():
    assert set(FIRING) == {(rule.id, rule.severity, rule.metric) for rule in ALERT_RULES}


@pytest.mark.parametrize("key", FIRING, ids=["-".join(key) for key in FIRING])
def test_each_alert_fires_and_does_not(key, healthy_rows, tmp_path):
    assert [row["status"] for row in healthy_rows[key]] == ["ok"] * len(healthy_rows[key])
    run = healthy()
    FIRING[key](run)
    fired = rows_of(write_root(tmp_path, run), baseline=0.002)
    assert "firing" in [row["status"] for row in fired[key]], fired[key]
    others = {other[0] for other, rows in fired.items() if any(map(fires, rows)) and other[0] != key[0]}
    related = {"stage_engine_started_after_failure": {"stage_checksum_mismatch"}, "s4_validation_skipped": {"validation_skipped"}, "s4_exhaustion_jump": set(), "s4_exhaustion_spike": {"s4_exhaustion_jump"}}.get(key[0], set())
    assert others <= related


def test_the_eligible_share_has_two_sides(tmp_path):
    run = healthy()
    run["states"][3]["metrics"]["eligible_crossborder_merchants"] = 200
    below, above = rows_of(write_root(tmp_path, run))["s3_eligible_share", WARNING, "s3.eligible_share"]
    assert (below["status"], below["condition"], above["status"]) == ("firing", "< 0.3", "ok")


@pytest.mark.parametrize("stage, status", [({"status": "ok", "files_mismatched": 0, "files_missing": 0, "files_unlisted": 0}, "ok"), ({"status": "failed", "files_mismatched": 1, "files_missing": 0, "files_unlisted": 2}, "firing")])
def test_stage_facts_of_the_summary(tmp_path, stage, status):
    run = healthy()
    run["summary"]["stage"] = stage
    rows = rows_of(write_root(tmp_path, run))
    assert rows["stage_checksum_mismatch", CRITICAL, "stage.files_refused"][0]["status"] == status
    assert rows["stage_engine_started_after_failure", CRITICAL, "stage.started_unverified"][0]["status"] == status


@pytest.mark.parametrize("failure, alert", [({"class": "F1", "code": "E_INGRESS_SCHEMA"}, "s0_schema_drift"), ({"class": "F2", "code": "E_LINEAGE_EXPECTED_MISMATCH"}, "s0_identity_mismatch")])
def test_a_run_that_ended_before_its_evidence(tmp_path, failure, alert):
    (tmp_path / "run_summary.json").write_text(json.dumps({"run": {"failure": failure}}))
    assert [row["status"] for row in run_alerts(tmp_path) if row["id"] == alert] == ["firing"]


def test_legal_emptiness_is_no_alert(tmp_path):
    """Nobody multi-site, no variance, the lane off, nobody in scope of S4: nothing to judge, and nothing wrong."""
    run = healthy()
    run["states"][1]["metrics"].update(z_multi=None, multi=0)
    run["states"][2].update(rows={}, rng=account(0))
    run["s2_nb_outlets/corridors.json"].update(rho_reject=None, p99_rejections=None, cusum_max=None, threshold_h=None)
    run["states"][3]["metrics"] = dict.fromkeys(run["states"][3]["metrics"], 0) | {"schema_validated": 1}
    run["states"][4]["metrics"].update({"s4.sampled": 0, "s4.exhaustion_rate": 0.0})
    run["s4_ztp_target/corridors.json"]["corridors"] = []
    run["diagnostics"] = None
    assert [row for row in run_alerts(write_root(tmp_path, run)) if row["status"] != "ok"] == [row for row in run_alerts(tmp_path) if row["id"] == "s4_exhaustion_jump"]


def test_insufficient_corridors_are_not_judged(tmp_path):
    run = healthy()
    by_name(run)["exhaustion_rate"].update(observed=0.5, status="insufficient")
    by_name(run)["mean_attempts"].update(observed=50.0, status="insufficient")
    rows = rows_of(write_root(tmp_path, run))
    assert rows["s4_exhaustion_spike", CRITICAL, "s4.exhaustion_rate_judged"][0]["status"] == "ok"
    assert rows["s4_mean_attempts_high", CRITICAL, "s4.mean_attempts"][0]["status"] == "ok"


def test_a_renamed_corridor_does_not_fall_silent(tmp_path):
    run = healthy()
    by_name(run)["k_sum.inversion"]["name"] = "k_total.inversion"
    assert rows_of(write_root(tmp_path, run))["s4_k_drift", CRITICAL, "s4.k_z"][0]["status"] == "unknown"


def test_a_late_proof_silences_the_skip(tmp_path):
    run = healthy()
    switched_off(run, 3, 4)
    root = write_root(tmp_path, run)
    before = rows_of(root)["validation_skipped", CRITICAL, "run.states_unproved"][0]
    folders = [root / contracts().path(STATE_FOLDERS[number], **TOKENS) for number in (3, 4)]
    for folder in folders:
        write_flag(folder)
    after = rows_of(root)
    assert before["observed"] == 2 and after["validation_skipped", CRITICAL, "run.states_unproved"][0]["status"] == "ok"
    (folders[1] / FLAG).write_bytes(b"sha256_hex = " + b"0" * 64 + b"\n")
    assert rows_of(root)["s4_validation_skipped", CRITICAL, "s4.validation_skipped"][0]["status"] == "firing"


@pytest.mark.parametrize("name, alerts", [
    ("s2_nb_outlets/corridors.json", {"s2_corridor_rho", "s2_corridor_p99", "s2_corridor_cusum"}), ("numeric_policy_attest.json", {"s0_numeric_attest"}),
    ("s4_ztp_target/corridors.json", {"s4_exhaustion_spike", "s4_mean_attempts_high", "s4_acceptance_drift", "s4_k_drift"}), ("s0_validation_summary.json", {"s0_schema_drift"})])
def test_a_missing_file_counts_as_firing(tmp_path, name, alerts):
    run = healthy()
    run[name] = None
    rows = [row for row in run_alerts(write_root(tmp_path, run)) if fires(row)]
    assert {row["id"] for row in rows} == alerts and {row["status"] for row in rows} == {"unknown"}


def test_damage_never_raises(tmp_path):
    root = write_root(tmp_path / "run", healthy())
    bodies = [b"", b"{", b"[]\n", b"null", b"\xff\xfe", b'{"passed": 1e400}', b"{}\n", b'{"metrics": 5, "corridors": [3], "validators": "x", "rows": [], "rng": [1], "cli_flags": 7, "run": "x", "states": null}']
    files = sorted(path for path in root.rglob("*") if path.is_file())
    for path in files:
        kept = path.read_bytes()
        for body in bodies:
            path.write_bytes(body)
            rows = run_alerts(root)
            assert len(rows) == len(ALERT_RULES) and {row["status"] for row in rows} <= {"ok", "firing", "unknown"}
            assert prometheus_text(rows, read_evidence(root)).endswith("\n")
        path.unlink()
        assert len(run_alerts(root)) == len(ALERT_RULES)
        path.mkdir()
        assert len(run_alerts(root)) == len(ALERT_RULES)
        path.rmdir()
        path.write_bytes(kept)


def test_limits_come_from_policy_then_seal_then_evidence(tmp_path):
    evidence = read_evidence(write_root(tmp_path, healthy()))
    assert alert_limits(evidence)["s3.eligible_share_min"] == 0.3 and alert_limits(evidence)["s2.threshold_h"] == 40.0
    policy = {"s3": {"eligible_share_min": 0.4}, "s2": {"corridors": {"rho_reject_max": 0.1, "p99_max": 2}, "cusum": {"false_alarm": 1e-4}}}
    limits = alert_limits(evidence, policy)
    assert (limits["s3.eligible_share_min"], limits["s2.rho_reject_max"], limits["s2.threshold_h"], limits["s1.z_fail"]) == (0.4, 0.1, 40.0, 6.0)


# ---- the command ----------------------------------------------------------------------------------------------------


def typed(capsys, *words) -> tuple[int, str]:
    import argparse

    from seg1a.operations.alerts import add_alerts_parser

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true")
    parser = argparse.ArgumentParser()
    add_alerts_parser(parser.add_subparsers(), shared)
    status = alerts_command(parser.parse_args(["alerts", *map(str, words)]))
    return status, capsys.readouterr().out


def test_exit_status_and_text(tmp_path, capsys):
    status, text = typed(capsys, write_root(tmp_path / "one", healthy()))
    assert status == 0 and text.splitlines()[-1].startswith("PASS 0 critical alerts and 0 warnings")
    run = healthy()
    exhausted(run, 0.011)
    (tmp_path / "one" / "run_summary.json").write_text(json.dumps({"s4": {"metrics": {"s4.exhaustion_rate": 0.01}}}))
    status, text = typed(capsys, write_root(tmp_path / "two", run), "--baseline", tmp_path / "one")
    assert status == 0 and "FIRING   warning   s4_exhaustion_spike" in text
    FIRING["s2_corridor_rho", CRITICAL, "s2.rho_reject"](run)
    status, text = typed(capsys, write_root(tmp_path / "three", run))
    assert status == 1 and "s2.rho_reject = 0.0601, fires when > 0.06" in text and text.splitlines()[-1].startswith("FAIL 1 critical")


def test_baseline_is_the_summary_of_an_earlier_run(tmp_path, capsys):
    summary = tmp_path / "earlier.json"
    summary.write_text(json.dumps({"s4": {"metrics": {"s4.exhaustion_rate": 0.001}}}))
    run = healthy()
    exhausted(run, 0.0071)
    root = write_root(tmp_path / "run", run)
    rows = json.loads(typed(capsys, root, "--baseline", summary, "--json")[1])["alerts"]
    (jump,) = [row for row in rows if row["id"] == "s4_exhaustion_jump"]
    assert jump["status"] == "firing" and jump["observed"] == pytest.approx(0.0061)
    assert {row["status"] for row in run_alerts(root) if row["id"] == "s4_exhaustion_jump"} == {"unknown"}


def test_prometheus_text_is_what_the_client_reads(tmp_path, capsys):
    run = healthy()
    switched_off(run, 4)
    run["states"][1]["metrics"].update(note="text", flag=True, nothing=None)
    status, text = typed(capsys, write_root(tmp_path, run), "--format", "prometheus")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert status == 1 and all(family.type == "gauge" for family in families.values())
    alerts = {(sample.labels["id"], sample.labels["severity"]): sample.value for sample in families["seg1a_alert"].samples}
    assert {key for key, value in alerts.items() if value} == {("validation_skipped", CRITICAL), ("s4_validation_skipped", CRITICAL)}
    assert set(alerts) == {(rule.id, rule.severity) for rule in ALERT_RULES}
    (info,) = families["seg1a_run_info"].samples
    assert info.labels == {name: str(value) for name, value in LINEAGE.record().items()} and info.value == 1
    for value in TOKENS.values():
        assert text.count(value) == 1 or value in ("b" * 64, "a" * 64), "lineage stands on one line only"
    others = [sample for name, family in families.items() if name != "seg1a_run_info" for sample in family.samples]
    assert not [sample for sample in others if set(sample.labels) & set(TOKENS)]
    assert families["seg1a_s4_exhaustion_rate"].samples[0].value == 0.002 and "seg1a_s1_note" not in families


def test_json_rows_hold_values_only(tmp_path, capsys):
    root = write_root(tmp_path, healthy())
    document = json.loads(typed(capsys, root, "--format", "json")[1])
    assert document["lineage"] == LINEAGE.record() and str(root) not in json.dumps(document)
    assert all(set(row) == {"id", "stage", "severity", "metric", "observed", "condition", "status"} for row in document["alerts"])


def test_the_counts_of_bound_merchants_are_read_from_any_line(tmp_path):
    run = healthy()
    run["diagnostics"].update(floor=0, ceiling=None)
    rows = rows_of(write_root(tmp_path, run))
    assert rows["s3_floor_hits", CRITICAL, "s3.floor_merchants"][0]["observed"] == rows["s3_ceiling_hits", CRITICAL, "s3.ceiling_merchants"][0]["observed"] == 0.0
    path = next(tmp_path.rglob("integerisation_diagnostics.jsonl"))
    path.write_bytes(b"{}\n")
    assert rows_of(tmp_path)["s3_floor_hits", CRITICAL, "s3.floor_merchants"][0]["status"] == "unknown"


def test_a_copy_elsewhere_says_the_same(tmp_path):
    root = write_root(tmp_path / "here", healthy())
    shutil.copytree(root, tmp_path / "there")
    assert run_alerts(root) == run_alerts(tmp_path / "there")
