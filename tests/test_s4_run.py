"""S4 through files: shards and workers, what earlier states wrote, features, failures, coming back, and random universes."""

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from s4_support import completed

from seg1a.core.contracts import contracts
from seg1a.core.errors import Seg1aError
from seg1a.core.event_rows import event_parts, event_program, part_path
from seg1a.core.gates import require_flags
from seg1a.core.rows import format_rows
from seg1a.core.run import Lineage, Options
from seg1a.core.shards import SHARD
from seg1a.core.tables import MerchantAbort, OutputRecord, read_aborts, read_outputs, write_aborts
from seg1a.core.trace import TraceAppender, trace_columns, trace_keys, trace_program
from seg1a.states import s4_sampler
from seg1a.states.s4_inputs import read_s4
from seg1a.states.s4_miniature import DEMO_POLICY, merchant_facts, miniature_s4
from seg1a.states.s4_policy import ZtpPolicy
from seg1a.states.s4_sampler import STREAMS, Scope, attempts_reference, compute_s4
from seg1a.states.s4_validate import DOCUMENTS, validate_s4, work_folder
from seg1a.states.s4_ztp import run_s4, write_s4

LINEAGE = Lineage(2**64 - 1, "12" * 32, "34" * 32, "56" * 16, 1_700_000_000_000_000_001)
WIDE = {"exhaustion_rate_warn": 1.0, "exhaustion_rate_fail": 1.0, "mean_attempts_warn": 1e6, "mean_attempts_fail": 1e6}


def crowd(n: int, **changes) -> dict:
    ids = np.arange(1, n + 1) * 7
    facts = {"is_multi": ids % 4 == 0, "n_outlets": np.where(ids % 4 == 0, 2 + ids % 61, 0), "leaves_home": ids % 10 > 0, "foreign_rows": ids % 5}
    return merchant_facts(ids, **(facts | changes))


def tree(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def refusal(call, *arguments) -> Seg1aError:
    with pytest.raises(Seg1aError) as caught:
        call(*arguments)
    return caught.value


@pytest.fixture
def run(tmp_path):
    return miniature_s4(tmp_path, LINEAGE, crowd(600))


# ---- shards and workers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three_shards(tmp_path_factory):
    """The same universe of three shards, the one in the middle without a merchant in scope, with 1 and with 2 workers."""
    n = 2 * SHARD + 500
    middle = (np.arange(n) >= SHARD) & (np.arange(n) < 2 * SHARD)
    facts = crowd(n)
    facts["leaves_home"] = np.where(middle, 0, facts["leaves_home"]).astype(np.int8)
    made = []
    for workers in (1, 2):
        run = miniature_s4(tmp_path_factory.mktemp(f"workers{workers}"), LINEAGE, facts, workers=workers)
        run_s4(run)
        made.append(run)
    return made


def test_workers_leave_no_trace(three_shards):
    assert tree(three_shards[0].root) == tree(three_shards[1].root)


def test_parts_follow_the_shards_of_the_universe(three_shards):
    run = three_shards[0]
    assert [index for index, _ in event_parts(run, "ztp_final")] == [0, 2]
    limits = [(0, SHARD * 7), (0, 0), (2 * SHARD * 7, np.inf)]
    for index, path in event_parts(run, "ztp_final"):
        ids = [row["merchant_id"] for row in lines(path)]
        assert ids == sorted(ids) and limits[index][0] < ids[0] and ids[-1] <= limits[index][1]


def test_trace_runs_on_across_shards(three_shards):
    run = three_shards[0]
    rows = lines(run.path("rng_trace_log"))
    events = sum(len(lines(path)) for stream_id in STREAMS for _, path in event_parts(run, stream_id))
    assert [row["events_total"] for row in rows] == list(range(1, events + 1))
    draws = sum(int(row["draws"]) for _, path in event_parts(run, "poisson_component_ztp") for row in lines(path))
    assert rows[-1]["draws_total"] == draws and rows[-1]["blocks_total"] <= draws


def test_outputs_are_listed_with_their_digests(three_shards):
    run = three_shards[0]
    files = tree(run.root)
    for record in read_outputs(run, 4):
        assert isinstance(record, OutputRecord) and files[record.path] == record.sha256
        assert (run.root / record.path).stat().st_size == record.size_bytes and len(lines(run.root / record.path)) == record.rows


def test_documents_obey_their_contracts(three_shards):
    run = three_shards[0]
    names = [name for name in DOCUMENTS if (run.state_bundle(4) / name).exists()]
    assert names == [name for name in DOCUMENTS if name != "failures.jsonl"]
    for name in names:
        assert contracts().document_problems("s4_ztp_target", name, (run.state_bundle(4) / name).read_bytes()) == [], name
    require_flags(run, 5)


# ---- what earlier states wrote --------------------------------------------------------------------------------------------


def upstream_trace(run, rows: int) -> bytes:
    """Trace rows of S1, as that state would have left them."""
    zero = {name: np.zeros(rows, np.uint64) for name in ("rng_counter_before_hi", "rng_counter_before_lo", "rng_counter_after_hi", "rng_counter_after_lo", "blocks", "draws")}
    with TraceAppender(run, 1) as trace:
        trace.append(trace_columns([(0, zero | {"blocks": np.ones(rows, np.uint64), "draws": np.ones(rows, np.uint64)}, None)]))
    return run.path("rng_trace_log").read_bytes()


def test_trace_stands_behind_the_rows_of_earlier_states(run):
    before = upstream_trace(run, 600)
    summary = run_s4(run)
    after = run.path("rng_trace_log").read_bytes()
    assert after.startswith(before) and summary["passed"]
    own = [json.loads(line) for line in after[len(before):].splitlines()]
    assert {row["module"] for row in own} == {"1A.ztp_sampler"} and [row["events_total"] for row in own] == list(range(1, len(own) + 1))
    assert summary["rng"][0]["events"] == len(own)


def test_parts_of_s2_in_the_shared_folder_are_left_alone(run):
    theirs = run.path("rng_event_poisson_component", state=2, shard=0)
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"whatever S2 wrote\n")
    assert run_s4(run)["passed"] and theirs.read_bytes() == b"whatever S2 wrote\n"


def test_aborts_of_s2_stay_in_the_log(tmp_path):
    facts = crowd(200)
    lost = int(facts["merchant_id"][(facts["is_multi"] == 1) & (facts["leaves_home"] == 1)][0])
    mine = facts["merchant_id"] == lost
    facts |= {"n_outlets": np.where(mine, 0, facts["n_outlets"]), "leaves_home": np.where(mine, -1, facts["leaves_home"]).astype(np.int8)}
    run = miniature_s4(tmp_path, LINEAGE, facts)
    write_aborts(run, "S2", [MerchantAbort(lost, "S2", "1A.nb_sampler", "ERR_S2_NUMERIC_INVALID", {"attempt": 2})])
    summary = run_s4(run)
    assert summary["passed"] and summary["metrics"]["s4.given_up_by_s2"] == 1 and summary["metrics"]["s4.upstream_missing"] == 0
    assert [(a.merchant_id, a.state) for a in read_aborts(run)] == [(lost, "S2")]


def test_draws_depend_on_seed_parameters_and_merchant_only(tmp_path):
    facts = crowd(400)
    some = {name: column[::3] for name, column in facts.items()}
    lineage = replace(LINEAGE, manifest_fingerprint="99" * 32, run_id="77" * 16, start_time_ns=5)
    rows = [{row["merchant_id"]: (row["K_target"], row["rng_counter_after_lo"], row["attempts"]) for row in lines(part_path(run, "ztp_final", 0))}
            for run in (miniature_s4(tmp_path / "all", LINEAGE, facts), miniature_s4(tmp_path / "some", lineage, some)) if run_s4(run)]
    assert rows[1] and rows[1].items() <= rows[0].items()
    other = miniature_s4(tmp_path / "seed", replace(LINEAGE, seed=1), some)
    run_s4(other)
    assert {row["merchant_id"]: row["rng_counter_after_lo"] for row in lines(part_path(other, "ztp_final", 0))} != {m: r[1] for m, r in rows[1].items()}


# ---- features ---------------------------------------------------------------------------------------------------------------


def test_features_move_the_intensity(tmp_path):
    facts = crowd(300)
    chosen = np.arange(300) % 8 == 3
    with_x = facts | {"x": np.where(chosen, 1.0, np.nan)}
    plain, open_ = (miniature_s4(tmp_path / name, LINEAGE, f) for name, f in (("plain", facts), ("open", with_x)))
    told = [run_s4(run) for run in (plain, open_)]
    lam = [{row["merchant_id"]: row["lambda_extra"] for row in lines(part_path(run, "ztp_final", 0))} for run in (plain, open_)]
    ratio = {m: lam[1][m] / lam[0][m] for m in lam[0]}
    known = set(facts["merchant_id"][chosen].tolist())
    assert all(abs(r - (np.exp(0.5 * 0.8) if m in known else 1.0)) < 1e-12 for m, r in ratio.items())
    assert told[0]["metrics"]["s4.feature.defaulted"] == len(ratio) > told[1]["metrics"]["s4.feature.defaulted"] > 0
    assert told[0]["features_path"] is None and told[1]["features_path"] == "crossborder_features.parquet"
    summary = json.loads((open_.state_bundle(4) / "validation_summary.json").read_bytes())
    assert summary["features"]["rows"] == chosen.sum() and summary["features"]["outside_universe"] == 0


@pytest.mark.parametrize("x, transform, code", [(1.5, "identity", "ERR_S4_FEATURE_DOMAIN"), (np.inf, "clamp01", "ERR_S4_FEATURE_DOMAIN"), (1.5, "clamp01", None)])
def test_feature_domain(tmp_path, x, transform, code):
    facts = crowd(100)
    run = miniature_s4(tmp_path, LINEAGE, facts | {"x": np.full(100, x)}, DEMO_POLICY | {"X_transform": transform})
    assert completed(run) == code
    assert bool(list(run.root.rglob("part-s4-*"))) == (code is None)


# ---- merchants without a target -----------------------------------------------------------------------------------------------


def test_every_merchant_in_scope_ends_once(tmp_path, caplog):
    ids = np.arange(1, 401)
    facts = merchant_facts(ids, n_outlets=np.where(ids % 50 == 0, 0, 2), home_rows=np.where(ids % 60 == 0, 2, 1), foreign_rows=ids % 3)
    policy = DEMO_POLICY | {"ztp_link": {"theta0": -2.0, "theta1": 0.0}, "ztp_controls": {"MAX_ZTP_ZERO_ATTEMPTS": 4, "ztp_exhaustion_policy": "abort"}}
    run = miniature_s4(tmp_path, LINEAGE, facts, policy, limits=WIDE)
    with caplog.at_level(logging.WARNING, logger="seg1a.s4"):
        assert completed(run) == "UPSTREAM_MISSING_S2"
    finals, markers = ({row["merchant_id"] for row in lines(part_path(run, stream_id, 0))} for stream_id in ("ztp_final", "ztp_retry_exhausted"))
    aborts = {a.merchant_id: a.reason for a in read_aborts(run, "S4")}
    assert {m for m, reason in aborts.items() if reason == "ZTP_EXHAUSTED_ABORT"} == markers and len(markers) > 50
    gaps = aborts.keys() - markers
    assert finals | markers | gaps == set(ids.tolist()) and not (finals & markers or finals & gaps)
    logged = [json.loads(record.message) for record in caplog.records]
    assert {row["s4.fail.merchant_id"]: row["s4.fail.code"] for row in logged} == aborts
    assert all(row["s4.run.seed"] == LINEAGE.seed and {"s4.fail.scope", "s4.fail.reason", "s4.run.run_id"} <= row.keys() for row in logged)


@pytest.mark.parametrize("rule, streams", [("abort", {"ztp_retry_exhausted"}), ("downgrade_domestic", {"ztp_final"})])
def test_exhaustion_policies_draw_the_same(tmp_path, rule, streams):
    policy = DEMO_POLICY | {"ztp_link": {"theta0": -9.0, "theta1": 0.0}, "ztp_controls": {"MAX_ZTP_ZERO_ATTEMPTS": 2, "ztp_exhaustion_policy": rule}}
    run = miniature_s4(tmp_path, LINEAGE, merchant_facts(np.arange(1, 30)), policy, limits=WIDE)
    summary = run_s4(run)
    assert summary["metrics"]["s4.attempts.total"] == 58 and summary["metrics"]["s4.exhaustion_rate"] == 1.0
    assert {s for s in ("ztp_retry_exhausted", "ztp_final") if event_parts(run, s)} == streams
    assert any("2, not 64" in warning for warning in summary["warnings"])


def test_a_cap_of_many_thousand_attempts(tmp_path):
    policy = DEMO_POLICY | {"ztp_link": {"theta0": -8.0, "theta1": 0.0}, "ztp_controls": {"MAX_ZTP_ZERO_ATTEMPTS": 20_000, "ztp_exhaustion_policy": "abort"}}
    run = miniature_s4(tmp_path, LINEAGE, merchant_facts(np.arange(1, 4)), policy, limits=WIDE)
    assert run_s4(run)["metrics"]["s4.attempts.total"] > 1000


# ---- compiled path against the definition ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(theta0=st.floats(-40, 12), theta1=st.floats(-3, 3), theta2=st.floats(-5, 5), cap=st.integers(1, 12), rule=st.sampled_from(["abort", "downgrade_domestic"]),
       people=st.lists(st.tuples(st.integers(1, 2**63 - 1), st.integers(2, 10**6), st.floats(0, 1), st.integers(0, 3)), min_size=1, max_size=12, unique_by=lambda p: p[0]))
def test_compiled_and_slow_path_agree(theta0, theta1, theta2, cap, rule, people):
    ids, outlets, x, foreign = (np.array(column) for column in zip(*sorted(people)))
    scope = Scope(ids.astype(np.int64), outlets.astype(np.int64), x.astype(np.float64), foreign.astype(np.int64))
    policy = ZtpPolicy("1.0.0", "2025-11-03", theta0, theta1, theta2, cap, rule)
    fast, slow = (compute_s4(scope, policy, LINEAGE.master, compiled) for compiled in (True, False))
    assert fast.invalid.tolist() == slow.invalid.tolist()
    for stream_id in STREAMS:
        for name, column in slow.streams[stream_id].items():
            assert fast.streams[stream_id][name].tobytes() == column.tobytes(), (stream_id, name)
    program = trace_program(trace_keys(4), LINEAGE)
    assert len(fast.trace) == len(slow.trace) and program.names
    for name in fast.merchants:
        assert fast.merchants[name].tobytes() == slow.merchants[name].tobytes(), name


def test_an_unresolved_rounding_goes_through_the_slow_path(monkeypatch):
    """The kernel never leaves a rounding open in practice; here it does so for every third merchant."""
    n = 50
    scope = Scope(np.arange(1, n + 1), np.full(n, 5), np.zeros(n), np.ones(n, np.int64))
    policy, asked, kernel = ZtpPolicy("1.0.0", "2025-11-03", -0.5, 0.3), [], s4_sampler._draw_merchants
    expected = compute_s4(scope, policy, LINEAGE.master)

    def reluctant(first, lam, drawn, key, hi, lo, cap, used, k, words, ends):
        if first % 3 == 0 and (not asked or asked[-1] != first):
            asked.append(first)
            return s4_sampler._UNRESOLVED, first, used
        outcome, at, used = kernel(first, lam[: first + 1], drawn, key, hi, lo, cap, used, k, words, ends)
        return (s4_sampler._DONE, at, used) if at == n else (outcome, at, used)

    monkeypatch.setattr(s4_sampler, "_draw_merchants", reluctant)
    observed = compute_s4(scope, policy, LINEAGE.master)
    assert len(asked) == 17
    for stream_id in STREAMS:
        assert all(observed.streams[stream_id][name].tobytes() == column.tobytes() for name, column in expected.streams[stream_id].items())


def test_the_definition_counts_what_it_consumes():
    for lam in (5e-324, 1e-3, 0.7, 9.999, 10.0, 500.0, 2.0**31):
        for k, at in attempts_reference(77, lam, 3, LINEAGE.master):
            assert at.draws == (k + 1 if lam < 10 else 2 * at.blocks) and at.blocks > 0


# ---- coming back, and failing ------------------------------------------------------------------------------------------------------


def test_a_second_run_changes_nothing(run):
    summary = run_s4(run)
    before = tree(run.root)
    assert run_s4(run) == summary and tree(run.root) == before


def test_an_interrupted_attempt_is_set_aside_and_drawn_again(run):
    write_s4(run, read_s4(run))
    part = part_path(run, "ztp_final", 0)
    good = part.read_bytes()
    part.write_bytes(good[:-40])
    summary = run_s4(run)
    assert summary["passed"] and part.read_bytes() == good
    assert (run.root / "_quarantine" / "0000" / run.relative(part)).read_bytes() == good[:-40]


def test_damage_after_the_run_is_a_fail_that_replaces_nothing(run):
    run_s4(run)
    part = part_path(run, "ztp_final", 0)
    damaged = part.read_bytes().replace(b'"regime":"inversion"', b'"regime":"ptrs"', 1)
    part.write_bytes(damaged)
    report = validate_s4(run)
    assert {f.code for f in report.findings} == {"REGIME_INVALID"} and part.read_bytes() == damaged
    assert json.loads((work_folder(run) / "state.json").read_bytes())["status"] == "failed"


def test_an_unfinished_working_folder_is_not_believed(run):
    run_s4(run)
    folder = work_folder(run)
    good = tree(folder)
    for name in ("state.json", "metrics.json", "merchant_summary.jsonl"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-30])
        assert validate_s4(run).passed
        assert tree(folder) == good


def test_a_fail_publishes_evidence_without_a_flag(tmp_path):
    run = miniature_s4(tmp_path, LINEAGE, crowd(600), limits={"mean_attempts_warn": 1.0, "mean_attempts_fail": 1.0})
    assert completed(run) == "CORRIDOR_BREACH"
    names = {path.name for path in run.state_bundle(4).iterdir()}
    assert names == set(DOCUMENTS)
    (row,) = lines(run.state_bundle(4) / "failures.jsonl")
    assert (row["code"], row["scope"], row["lineage"]) == ("CORRIDOR_BREACH", "run", LINEAGE.record())
    alerts = json.loads((run.state_bundle(4) / "alerts.json").read_bytes())["alerts"]
    assert ("s4_mean_attempts_high", "critical", "firing") in {(a["id"], a["severity"], a["status"]) for a in alerts}
    (record,) = run.root.rglob("failure.json")
    assert json.loads(record.read_bytes())["failure_class"] == "F8"
    assert json.loads((run.work_dir(4) / "summary.json").read_bytes())["passed"] is False
    assert not list(run.root.rglob("_tmp.*"))


def test_a_disk_that_refuses_leaves_no_part(run, monkeypatch):
    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seg1a.core.events.write_part_to", full)
    assert refusal(run_s4, run).code == "E_WRITE_FAIL"
    assert not list(run.root.rglob("part-s4-*")) and not list(run.root.rglob("_tmp.*"))


def test_no_validation_no_proof(tmp_path):
    run = miniature_s4(tmp_path, LINEAGE, crowd(100), options=Options(validate=(True, True, True, True, False)))
    summary = run_s4(run)
    told = json.loads((run.state_bundle(4) / "validation_summary.json").read_bytes())
    assert (told["validated"], told["passed"], told["reason"]) == (False, None, "operator_flag")
    assert summary["metrics"]["s4.accepted"] > 0 and not (run.work_dir(4) / "state.json").exists()
    assert run_s4(run) == summary


def test_rows_are_what_the_row_program_writes(run):
    """The text of a part is the canonical JSON of its rows; nothing else would survive the comparison."""
    run_s4(run)
    inputs = read_s4(run)
    part = compute_s4(inputs.scope(inputs.shards()[0])[0], inputs.policy, run.lineage.master)
    for stream_id in STREAMS:
        if event_parts(run, stream_id):
            text = format_rows(event_program(stream_id, run.lineage), part.streams[stream_id]).tobytes()
            assert part_path(run, stream_id, 0).read_bytes() == text
            validator = contracts().row_validator(contracts().streams()[stream_id].dataset_id)
            assert all(validator.is_valid(row) for row in lines(part_path(run, stream_id, 0)))
