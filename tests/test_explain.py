"""`seg1a explain`: merchants in every branch agree with what the run wrote; every forged row is found; refusals."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seg1a.core.contracts import contracts
from seg1a.core.encoding import canonical_line, read_yaml
from seg1a.core.errors import Seg1aError, UsageError, code_table
from seg1a.core.event_rows import event_parts, part_path
from seg1a.core.run import Options, open_run
from seg1a.core.tables import read_aborts, read_table
from seg1a.inputs.pack import overlay_pack
from seg1a.operations.explain import explain
from seg1a.operations.explain_universe import explanation_lines, verdict_line
from seg1a.operations.pipeline import RunRequest, run_pipeline

LANES = Options(s3_priors=True, s3_integerisation=True, s3_sequencing=True, notebooks=False)
DRAWING = ("gamma_component", "poisson_component_nb", "nb_final", "poisson_component_ztp", "ztp_rejection", "ztp_final")


def document(pack: Path, name: str) -> dict:
    return read_yaml(next(pack.rglob(name)).read_bytes(), name)


def run_of(pack: Path, folder: Path, files: dict[str, dict], options: Options = LANES) -> dict:
    """The summary of a run of a pack with some files changed; the pack lies beside the runs."""
    changed = overlay_pack(pack, {name: canonical_line(content) for name, content in files.items()}, folder / "pack")
    return run_pipeline(RunRequest(changed, folder, 11, "ab" * 20, 1_700_000_000_000_000_000, options))


def set_effect(hurdle: dict, key: str, mcc: int, value: float) -> None:
    hurdle[key][1 + hurdle["dicts"]["mcc"].index(mcc)] = value


@pytest.fixture(scope="module")
def odd(small_pack, passed_run, tmp_path_factory) -> tuple[Path, dict[str, int]]:
    """A run with all lanes in which coefficients are such that every branch has merchants; and one MCC for each thing that was forced."""
    folder = tmp_path_factory.mktemp("odd")
    plain = open_run(passed_run, small_pack)
    counts = Counter(read_table(plain, "hurdle_design_matrix")["mcc"].to_pylist())
    never, huge, *rest = (mcc for mcc, n in sorted(counts.items()) if n == 3)
    eligible = dict(zip(read_table(plain, "hurdle_design_matrix")["mcc"].to_pylist(), read_table(plain, "crossborder_eligibility_flags")["is_eligible"].to_pylist()))
    always = next(mcc for mcc in rest if eligible[mcc])
    hurdle, dispersion, policy, ladder = (document(small_pack, name) for name in ("hurdle_coefficients.yaml", "nb_dispersion_coefficients.yaml", "policy.s4.hyperparams.yaml", "policy.s3.rule_ladder.yaml"))
    everywhere = pq.read_table(next(small_pack.rglob("iso3166.parquet")))["country_iso"].to_pylist()
    ladder["reason_codes"].append("ALLOWED_NOWHERE")
    ladder["reason_code_map"]["ALLOWED_NOWHERE"] = ["RL_ALLOW_NOWHERE"]
    ladder["rules"].append({"rule_id": "RL_ALLOW_NOWHERE", "precedence": "ALLOW", "priority": 0, "is_decision_bearing": True, "predicate": f"mcc == {always}",
                            "outcome": {"reason_code": "ALLOWED_NOWHERE", "deny_countries": everywhere}})
    set_effect(hurdle, "beta", never, -1000.0)
    set_effect(hurdle, "beta", always, 1000.0)
    set_effect(hurdle, "beta", huge, 1000.0)
    set_effect(dispersion, "beta_phi", huge, 1000.0)
    hurdle["beta"][0] += 1.5
    hurdle["beta_mu"][0] -= 1.0  # small counts: rejected attempts
    policy["ztp_link"] |= {"theta0": -3.0, "theta1": 1.2}  # zeros, and now and then two in a row
    policy["ztp_controls"]["MAX_ZTP_ZERO_ATTEMPTS"] = 2
    validation = document(small_pack, "validation_policy.yaml")
    validation["s2"]["corridors"] |= {"rho_reject_max": 0.9, "p99_max": 50}
    validation["s4"] |= {"exhaustion_rate_warn": 0.9, "exhaustion_rate_fail": 1.0}
    files = {"hurdle_coefficients.yaml": hurdle, "nb_dispersion_coefficients.yaml": dispersion, "policy.s4.hyperparams.yaml": policy, "validation_policy.yaml": validation,
             "policy.s3.rule_ladder.yaml": ladder}
    summary = run_of(small_pack, folder, files)
    assert summary["gate"]["status"] == "PASS", summary["run"]["failure"]
    return Path(summary["output_dir"]), {"never": never, "always": always, "huge": huge}


def events(run, stream: str) -> list[dict]:
    return [json.loads(line) for _, path in event_parts(run, stream) for line in path.read_bytes().splitlines()]


@pytest.fixture(scope="module")
def branches(odd) -> dict[str, int]:
    """Branch -> a merchant of the odd run that took it; told from what the run wrote, not from an explanation."""
    root, mccs = odd
    run = open_run(root, root)
    design = {row["merchant_id"]: row for row in read_table(run, "hurdle_design_matrix").to_pylist()}
    flags = {row["merchant_id"]: row["is_eligible"] for row in read_table(run, "crossborder_eligibility_flags").to_pylist()}
    hurdle = {row["merchant_id"]: row for row in events(run, "hurdle_bernoulli")}
    finals, targets = ({row["merchant_id"]: row for row in events(run, stream)} for stream in ("nb_final", "ztp_final"))
    candidates = Counter(read_table(run, "s3_candidate_set")["merchant_id"].to_pylist())
    ladder = {row["merchant_id"]: row["eligible_crossborder"] for row in read_table(run, "s3_eligibility").to_pylist()}
    zeros, exhausted = (Counter(row["merchant_id"] for row in events(run, stream)) for stream in ("ztp_rejection", "ztp_retry_exhausted"))
    aborts = {abort.merchant_id: abort.reason for abort in read_aborts(run)}

    def of_mcc(name: str, wanted) -> int:
        return next(m for m, row in design.items() if row["mcc"] == mccs[name] and wanted(m))

    def first(among, wanted) -> int:
        return next(m for m in among if wanted(m))

    return {
        "single": first(hurdle, lambda m: not hurdle[m]["is_multi"] and not hurdle[m]["deterministic"]),
        "never multi": of_mcc("never", lambda m: hurdle[m]["deterministic"] and not hurdle[m]["is_multi"]),
        "always multi": of_mcc("always", lambda m: hurdle[m]["deterministic"] and m in finals),
        "given up by S2": of_mcc("huge", lambda m: aborts.get(m) == "ERR_S2_NUMERIC_INVALID"),
        "rejected twice": first(finals, lambda m: finals[m]["nb_rejections"] >= 2),
        "ineligible": first(finals, lambda m: not flags[m]),
        "kept home by the ladder": first(finals, lambda m: flags[m] and not ladder[m]),
        "no admissible country": first(targets, lambda m: targets[m].get("reason") == "no_admissible"),
        "foreign candidates": first(targets, lambda m: candidates[m] > 3 and targets[m]["K_target"] > 0),
        "a zero first": first(targets, lambda m: zeros[m] == 1 and targets[m]["K_target"] > 0),
        "exhausted": first(exhausted, lambda m: aborts[m] == "ZTP_EXHAUSTED_ABORT" and zeros[m] == 2),
        "smallest id": min(design), "largest id": max(design), "last of S2": max(finals),
    }


BRANCHES = ("single", "never multi", "always multi", "given up by S2", "rejected twice", "ineligible", "kept home by the ladder", "no admissible country", "foreign candidates",
            "a zero first", "exhausted", "smallest id", "largest id", "last of S2")


@pytest.mark.parametrize("branch", BRANCHES)
def test_every_branch_agrees_with_the_logs(odd, branches, branch):
    told = explain(odd[0], branches[branch])
    assert told.equal, [comparison.difference() for comparison in told.comparisons if not comparison.equal]
    assert told.passed and [part.state for part in told.parts] == ["S0", "S1", "S2", "S3", "S4"]
    lines = list(explanation_lines(told))
    assert lines[-1] == f"EQUAL {told.rows} rows compared" == verdict_line(told) and json.loads(json.dumps(told.as_json()))["equal"]


def test_facts_of_the_branches(odd, branches):
    facts = {branch: {part.state: part.facts for part in explain(odd[0], branches[branch]).parts} for branch in BRANCHES[:11]}
    assert facts["single"]["S2"]["scope"].startswith("single") and facts["single"]["S4"]["scope"] == "single"
    assert facts["never multi"]["S1"]["pi"] == 0.0 and facts["never multi"]["S1"]["u"] is None and facts["always multi"]["S1"]["pi"] == 1.0
    assert facts["given up by S2"]["S2"]["given_up_at_attempt"] == 0 and facts["given up by S2"]["S4"]["scope"] in ("given_up", "ineligible")
    attempts = facts["rejected twice"]["S2"]["attempts"]
    assert len(attempts) >= 3 and [attempt["accepted"] for attempt in attempts] == [False] * (len(attempts) - 1) + [True] and all(a["k"] < 2 for a in attempts[:-1])
    assert facts["ineligible"]["S4"]["scope"] == "ineligible" and not facts["ineligible"]["S0"]["eligible"]
    assert not facts["kept home by the ladder"]["S3"]["eligible_crossborder"]
    abroad = facts["foreign candidates"]["S3"]
    assert sum(fact["count"] for fact in abroad["candidates"]) == facts["foreign candidates"]["S2"]["n_outlets"]
    assert [c for c, fact in abroad["countries"].items() if fact["verdict"] == "home"] == [abroad["context"]["home_country_iso"]]
    nowhere = facts["no admissible country"]
    assert nowhere["S4"]["outcome"] == "short_circuit_no_admissible" and nowhere["S4"]["attempts"] == [] and nowhere["S4"]["K_target"] == 0
    assert {fact["verdict"] for fact in nowhere["S3"]["countries"].values()} == {"home", "denied"} and nowhere["S3"]["decision_rule_id"] == "RL_ALLOW_NOWHERE"
    assert facts["a zero first"]["S4"]["attempts"][0]["k"] == 0 and facts["a zero first"]["S4"]["outcome"] == "accepted"
    assert facts["exhausted"]["S4"]["outcome"] == "aborted" and facts["exhausted"]["S4"]["K_target"] is None and len(facts["exhausted"]["S4"]["attempts"]) == 2


def test_rows_are_those_of_the_run(odd, branches):
    """The comparisons together cover every row that the run has of a merchant, and each once."""
    run, merchant = open_run(odd[0], odd[0]), branches["exhausted"]
    told = explain(odd[0], merchant)
    for stream in DRAWING:
        expected = sum(row["merchant_id"] == merchant for row in events(run, stream))
        file = run.relative(part_path(run, stream, 0))
        assert sum(len(c.observed) for c in told.comparisons if c.file == file) == expected, stream
    trace = [c for c in told.comparisons if c.dataset_id == "rng_trace_log"]
    assert sum(len(c.rows) for c in trace) == 1 + sum(row["merchant_id"] == merchant for stream in (*DRAWING, "ztp_retry_exhausted") for row in events(run, stream))
    assert len({row for c in trace for row in c.rows}) == sum(len(c.rows) for c in trace)


# ---- forged rows -------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(odd, tmp_path) -> Path:
    return Path(shutil.copytree(odd[0], tmp_path / "run"))


def forge_line(path: Path, merchant: int, old: bytes, new: bytes) -> int:
    """Change the first line of a merchant in a log; its number."""
    lines = path.read_bytes().splitlines(keepends=True)
    row = next(i for i, line in enumerate(lines) if b'"merchant_id":%d,' % merchant in line and old in line)
    lines[row] = lines[row].replace(old, new, 1)
    path.write_bytes(b"".join(lines))
    return row


FORGERIES = [("hurdle_bernoulli", "foreign candidates", b'"is_multi":true', b'"is_multi":false', "is_multi is false, must be true"), ("gamma_component", "rejected twice", b'"draws":"', b'"draws":"1', "draws is"),
             ("poisson_component_nb", "rejected twice", b'"attempt":2', b'"attempt":9', "attempt is 9, must be 2"), ("nb_final", "rejected twice", b'"n_outlets":', b'"n_outlets":1', "n_outlets is 1"),
             ("poisson_component_ztp", "a zero first", b'"k":0', b'"k":1', "k is 1, must be 0"), ("ztp_rejection", "a zero first", b'"attempt":1', b'"attempt":2', "attempt is 2, must be 1"),
             ("ztp_final", "a zero first", b'"exhausted":false', b'"exhausted":true', "exhausted is true, must be false"),
             ("ztp_retry_exhausted", "exhausted", b'"attempts":2', b'"attempts":3', "attempts is 3, must be 2"), ("hurdle_bernoulli", "single", b'"seed":11', b'"seed":12', "seed is 12, must be 11")]


@pytest.mark.parametrize("stream, branch, old, new, what", FORGERIES, ids=[f"{stream}: {what.split(' is')[0]}" for stream, _, _, _, what in FORGERIES])
def test_a_forged_line_is_found(copy, branches, odd, stream, branch, old, new, what):
    run, merchant = open_run(copy, copy), branches[branch]
    row = forge_line(part_path(run, stream, 0), merchant, old, new)
    told = explain(copy, merchant, odd[0].parents[1] / "pack")
    (difference,) = [comparison.difference() for comparison in told.comparisons if not comparison.equal]
    assert difference.startswith(f"{run.relative(part_path(run, stream, 0))}, row {row}: {what}")
    assert verdict_line(told) == f"DIFFERENT {difference}"
    assert explain(copy, branches["largest id"], odd[0].parents[1] / "pack").equal or branches["largest id"] == merchant


def test_missing_doubled_and_unreadable_lines(copy, branches, odd):
    run, merchant = open_run(copy, copy), branches["rejected twice"]
    path = part_path(run, "nb_final", 0)
    lines = path.read_bytes().splitlines(keepends=True)
    own = next(i for i, line in enumerate(lines) if b'"merchant_id":%d,' % merchant in line)
    pack = odd[0].parents[1] / "pack"
    for forged, what in ((lines[:own] + lines[own + 1:], "0 rows of the merchant, must be 1"), (lines[:own] + [lines[own]] + lines[own:], "2 rows of the merchant, must be 1"),
                         (lines[:own] + [lines[own].replace(b"}", b"")] + lines[own + 1:], "must be")):
        path.write_bytes(b"".join(forged))
        told = explain(copy, merchant, pack)
        assert not told.equal and what in verdict_line(told)


def test_a_forged_trace_row_is_found(copy, branches, odd):
    run, merchant = open_run(copy, copy), branches["a zero first"]
    pack = odd[0].parents[1] / "pack"
    place = next(c for c in explain(odd[0], merchant).parts[4].comparisons if c.dataset_id == "rng_trace_log")
    path = run.path("rng_trace_log")
    lines = path.read_bytes().splitlines(keepends=True)
    forged = json.loads(lines[place.rows[1]])
    forged["draws_total"] += 1
    path.write_bytes(b"".join([*lines[:place.rows[1]], canonical_line(forged), *lines[place.rows[1] + 1:]]))
    told = explain(copy, merchant, pack)
    assert f"rng_trace_log.jsonl, row {place.rows[1]}: draws_total is {forged['draws_total']}, must be {forged['draws_total'] - 1}" in verdict_line(told)
    path.write_bytes(b"".join(lines[:place.rows[0]]))
    assert "rng_trace_log.jsonl: 0 rows of the merchant" in verdict_line(explain(copy, merchant, pack))
    path.unlink()
    assert "rng_trace_log.jsonl: 0 rows of the merchant, must be 1" in verdict_line(explain(copy, merchant, pack))


TABLES = [("hurdle_design_matrix", "gdp_bucket_id"), ("crossborder_eligibility_flags", "reason"), ("hurdle_pi_probs", "pi"), ("s3_candidate_set", "candidate_rank"), ("s3_base_weight_priors", "base_weight_dp"),
          ("s3_integerised_counts", "count"), ("s3_site_sequence", "site_id"), ("s3_eligibility", "decision_rule_id"), ("s3_candidate_set", "filter_tags")]


@pytest.mark.parametrize("dataset_id, column", TABLES, ids=map(" ".join, TABLES))
def test_a_forged_table_row_is_found(copy, branches, odd, dataset_id, column):
    run, merchant = open_run(copy, copy), branches["foreign candidates"]
    table = pq.read_table(run.path(dataset_id))
    row = table["merchant_id"].to_pylist().index(merchant)
    values = table[column].to_pylist()
    values[row] = values[row][:-1] + ["X"] if isinstance(values[row], list) else f"{values[row]}X" if isinstance(values[row], str) else values[row] / 2 if isinstance(values[row], float) else values[row] + 1
    index, kept = table.schema.get_field_index(column), table.schema.field(column)
    pq.write_table(table.set_column(index, kept, pa.array(values, kept.type)), run.path(dataset_id))
    told = explain(copy, merchant, odd[0].parents[1] / "pack")
    (difference,) = [comparison.difference() for comparison in told.comparisons if not comparison.equal]
    assert f"{dataset_id}.parquet, row {row}: {column} is " in difference


def test_a_row_for_a_merchant_who_may_have_none(copy, branches, odd):
    run, single, multi = open_run(copy, copy), branches["single"], branches["rejected twice"]
    path = part_path(run, "nb_final", 0)
    line = next(line for line in path.read_bytes().splitlines(keepends=True) if b'"merchant_id":%d,' % multi in line)
    path.write_bytes(path.read_bytes() + line.replace(b'"merchant_id":%d,' % multi, b'"merchant_id":%d,' % single))
    assert "1 rows of the merchant, must be 0" in verdict_line(explain(copy, single, odd[0].parents[1] / "pack"))


# ---- runs that did not come to their end --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(small_pack, tmp_path_factory) -> Path:
    """A run that the watchdog of S2 ended: one attempt a merchant."""
    dispersion, hurdle = document(small_pack, "nb_dispersion_coefficients.yaml"), document(small_pack, "hurdle_coefficients.yaml")
    hurdle["beta_mu"][0] -= 2.0
    summary = run_of(small_pack, tmp_path_factory.mktemp("stopped"), {"nb_dispersion_coefficients.yaml": dispersion | {"s2_max_attempts": 1}, "hurdle_coefficients.yaml": hurdle})
    assert summary["run"]["failure"]["code"] == "ERR_S2_ATTEMPT_LIMIT"
    return Path(summary["output_dir"])


def test_an_unfinished_run_is_explained_as_far_as_it_got(stopped, seg1a):
    run = open_run(stopped, stopped)
    merchants = [row["merchant_id"] for row in events(run, "hurdle_bernoulli") if row["is_multi"]]
    told = [explain(stopped, merchant) for merchant in merchants[:12]]
    assert all(each.equal and not each.passed and not each.parts[2].written for each in told)
    refused = next(each for each in told if each.parts[-1].refusal)
    assert refused.parts[-1].state == "S2" and "ERR_S2_ATTEMPT_LIMIT" in "\n".join(explanation_lines(refused))
    through = next(each for each in told if not each.parts[2].refusal)
    assert len(through.parts) == 5 and through.parts[2].facts["n_outlets"] >= 2 and not any(c for part in through.parts[2:] for c in part.comparisons)
    done = seg1a("explain", stopped, refused.merchant_id)
    assert done.returncode == 0 and "carries no valid PASS" in done.stderr and "nothing to compare" in done.stdout and done.stdout.splitlines()[-1].startswith("EQUAL")


# ---- refusals, and the command line -------------------------------------------------------------------------------------


def code_of(call, *arguments) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    return caught.value.code


def test_wrong_merchants_packs_and_roots(odd, branches, small_pack, tmp_path):
    root, merchant = odd[0], branches["single"]
    assert code_of(explain, root, merchant + 1) == "E_EXPLAIN_MERCHANT" and code_of(explain, tmp_path, merchant) == "E_ROOT_NOT_FOUND"
    assert code_of(explain, root, merchant, small_pack) == "E_EXPLAIN_PACK" and code_of(explain, root, merchant, tmp_path / "none") == "E_PACK_UNKNOWN"
    damaged = Path(shutil.copytree(root.parents[1] / "pack", tmp_path / "damaged"))
    file = next(damaged.rglob("gdp.parquet"))
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    assert code_of(explain, root, merchant, damaged) == "E_EXPLAIN_PACK"


def test_a_list_of_artefacts_that_was_edited_is_no_authority(copy, odd, branches):
    """Who edits the sealed list to fit another file meets the pack's own index, or the comparison."""
    run = open_run(copy, copy)
    path = run.state_bundle(0) / "fingerprint_artifacts.jsonl"
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    forged = [row | {"sha256_hex": "0" * 64} if row["filename"] == "gdp.parquet" else row for row in rows]
    path.write_bytes(b"".join(map(canonical_line, forged)))
    assert code_of(explain, copy, branches["single"], odd[0].parents[1] / "pack") == "E_EXPLAIN_PACK"


def test_the_command(odd, branches, seg1a):
    root, merchant = odd[0], branches["foreign candidates"]
    done = seg1a("explain", root, merchant, "--json", "--quiet")
    document, last = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == "" and json.loads(document)["rows"] > 20 and last.startswith("EQUAL ")
    for words, code in (((root, "12x"), "E_EXPLAIN_MERCHANT"), ((root, 2**63), "E_EXPLAIN_MERCHANT"), ((root, merchant, "--pack", root), "E_EXPLAIN_PACK"), (("E_NO_SUCH",), "E_EXPLAIN_CODE")):
        done = seg1a("explain", *words)
        assert done.returncode == 2 and done.stdout.startswith(f"FAIL {code} ") and "Traceback" not in done.stderr, words


def test_every_code_is_explained(capsys):
    from seg1a.operations.cli import main

    for code, record in code_table().items():
        assert main(["explain", code]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"{code}: ") and record.meaning in text and record.remedy in text
    assert main(["explain", "E_PACK_DIGEST", "--json"]) == 0 and json.loads(capsys.readouterr().out.splitlines()[0])["code"] == "E_PACK_DIGEST"


def test_downgrading_instead_of_giving_up(odd, small_pack, tmp_path):
    """The other exhaustion policy: a final with target 0, and no abort row."""
    pack = odd[0].parents[1] / "pack"
    policy = document(pack, "policy.s4.hyperparams.yaml")
    policy["ztp_controls"]["ztp_exhaustion_policy"] = "downgrade_domestic"
    summary = run_of(pack, tmp_path, {"policy.s4.hyperparams.yaml": policy}, replace(LANES, s3_priors=False, diagnostics=False))
    assert summary["gate"]["status"] == "PASS", summary["run"]["failure"]
    run = open_run(summary["output_dir"], summary["output_dir"])
    downgraded = [row["merchant_id"] for row in events(run, "ztp_final") if row["exhausted"]]
    told = explain(run.root, downgraded[0])
    assert told.equal and told.parts[4].facts["outcome"] == "downgrade_domestic" and told.parts[4].facts["K_target"] == 0
    assert {"hurdle_pi_probs", "s3_base_weight_priors"}.isdisjoint(comparison.dataset_id for comparison in told.comparisons)


def test_no_table_of_the_contracts_is_forgotten(odd, branches):
    """Every table and every stream that has rows of merchants is among the comparisons of a merchant."""
    told = {comparison.dataset_id for comparison in explain(odd[0], branches["foreign candidates"]).comparisons}
    of_merchants = {r.id for r in contracts().datasets().values() if r.root == "run" and r.format == "parquet"} | {s.dataset_id for s in contracts().streams().values()}
    assert told == of_merchants | {"rng_trace_log"}


def test_damage_is_refused_with_a_code(copy, branches, odd):
    run = open_run(copy, copy)
    run.path("s3_eligibility").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(Seg1aError) as caught:
        explain(copy, branches["single"], odd[0].parents[1] / "pack")
    assert caught.value.code == "E_TABLE_UNREADABLE" and caught.value.exit_status == 1
