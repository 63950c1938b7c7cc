"""S0 from request to flag: what it leaves, and that nothing but the inputs decides what it leaves."""

import hashlib
import json
import os
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from s0_support import DISPERSION, ELIGIBILITY, GDP, MERCHANTS, START, changed, claimed_root, document, pack_file, request_file, rows, run_of, small_world, table_bytes

from seg1a.core.contracts import contracts
from seg1a.core.flags import verify_flag
from seg1a.core.gates import require_flags
from seg1a.core.lineage import manifest_fingerprint, master_material, merchant_u64, root_key_counter, run_id
from seg1a.core.run import Options
from seg1a.core.shards import SHARD
from seg1a.core.tables import read_outputs, read_table
from seg1a.inputs.pack import overlay_pack
from seg1a.states.s0_foundations import run_s0
from seg1a.states.s0_validate import validate_s0

TABLES = ("crossborder_eligibility_flags", "hurdle_design_matrix", "hurdle_pi_probs")


@pytest.fixture(scope="module")
def world(small_pack, tmp_path_factory):
    return small_world(small_pack, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("run"), world)


def tree(root: Path) -> dict[str, str]:
    """Relative path → digest of every file below a run root."""
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*")) if path.is_file()}


def contents(run, table: str, lineage=False) -> list[dict]:
    columns = [name for name in contracts().arrow_schema(table).names if lineage or name not in ("parameter_hash", "produced_by_fingerprint")]
    return read_table(run, table, columns).to_pylist()


# ---- what a run leaves ----------------------------------------------------------------------------------------------


def test_a_run_leaves_these_files_and_no_other(run):
    ph, rid = f"parameter_hash={run.lineage.parameter_hash}", f"run_id={run.lineage.run_id}"
    documents = ["MANIFEST.json", "_passed.flag", "execution_stamp.json", "fingerprint_artifacts.jsonl", "index.json", "manifest_fingerprint_resolved.json",
                 "numeric_policy_attest.json", "param_digest_log.jsonl", "parameter_hash_resolved.json", "validation_summary.json"]
    assert set(tree(run.root)) == {
        "run_root.json", f"logs/rng/audit/seed=7/{ph}/{rid}/rng_audit_log.jsonl", *(f"parameter_scoped/{ph}/{name}.parquet" for name in TABLES),
        *(f"validation/{ph}/{name}" for name in documents), f"validation/{ph}/{rid}/s0/outputs.json", f"validation/{ph}/{rid}/s0/summary.json"}  # fmt: skip


def test_gate_is_open_and_every_written_row_is_declared(run):
    require_flags(run, 1)
    verify_flag(run.state_bundle(0), [f"run_id={run.lineage.run_id}"])
    declared = {record.path: (record.sha256, record.rows) for record in read_outputs(run, 0)}
    on_disk = tree(run.root)
    assert set(declared) == {path for path in on_disk if path.startswith(("parameter_scoped/", "logs/rng/"))}
    assert all(on_disk[path] == digest for path, (digest, _) in declared.items())
    assert {count for path, (_, count) in declared.items() if path.endswith(".parquet")} == {400}


def test_summary_is_what_was_returned_and_agrees_with_the_bundle(world, tmp_path):
    returned = run_s0(request_file(tmp_path, world))
    (work,) = claimed_root(tmp_path).glob("validation/*/*/s0/summary.json")
    (bundle,) = claimed_root(tmp_path).glob("validation/*/validation_summary.json")
    summary = json.loads(bundle.read_text())
    assert json.loads(work.read_text()) == returned and returned["metrics"] == summary["metrics"] and returned["rng"] == []
    assert returned["passed"] is summary["passed"] is True and returned["rows"] == summary["datasets"] == dict.fromkeys(TABLES, 400) | {"rng_audit_log": 1}
    assert [check["id"] for check in summary["checks"]] == [f"V{n}" for n in range(1, 13)] and all(check["ok"] for check in summary["checks"])


def test_metrics_are_counts_of_the_tables(run, world):
    metrics, design, flags = validate_s0(run).metrics, contents(run, "hurdle_design_matrix"), contents(run, "crossborder_eligibility_flags")
    merchants, rules = rows(world, MERCHANTS), document(world, ELIGIBILITY)["eligibility"]["rules"]
    reasons = [row["reason"] for row in flags]
    assert metrics["merchants"] == len(design) == len(merchants) == 400
    assert metrics["distinct_home_iso"] == len({row["home_country_iso"] for row in merchants})
    assert metrics["distinct_mcc"] == metrics["mcc_dict_size"] == len({row["mcc"] for row in merchants})
    assert metrics["eligible"] == sum(row["is_eligible"] for row in flags) == 400 - metrics["ineligible"]
    assert metrics["bucket_counts"] == {str(b): sum(row["gdp_bucket_id"] == b for row in design) for b in range(1, 6)}
    assert metrics["rule_hits"] == {rule["id"]: reasons.count(rule["id"]) for rule in rules}
    tiers = {tier: sum(reasons.count(rule["id"]) for rule in rules if rule["decision"] == tier) for tier in ("deny", "allow")}
    assert metrics["decided_by"] == tiers | {name: reasons.count(name) for name in ("default_allow", "default_deny")}


def test_warnings_name_what_deserves_a_look(world, tmp_path):
    everybody = changed(world, ELIGIBILITY, lambda content: content["eligibility"].update(default_decision="allow", rules=[
        {"id": "idle", "priority": 1, "decision": "deny", "mcc": ["9999"], "channel": "*", "iso": "*"}]))  # fmt: skip
    report = validate_s0(run_of(tmp_path / "run", overlay_pack(world, everybody, tmp_path / "pack")))
    assert report.passed and report.warnings[:2] == ["every merchant is eligible", "rule idle decided no merchant"]
    assert any("no GDP value" in warning for warning in report.warnings) and any("no GDP bucket" in warning for warning in report.warnings)


def test_audit_row_states_the_root_key(run, world):
    (row,) = [json.loads(line) for line in run.path("rng_audit_log").read_text().splitlines()]
    key, hi, lo = root_key_counter(master_material(run.lineage.parameter_hash, 7))
    assert (row["rng_key_hi"], row["rng_key_lo"], row["rng_counter_hi"], row["rng_counter_lo"]) == (0, key, hi, lo)
    assert (row["build_commit"], row["ts_utc"], row["hostname"], row["platform"]) == ("ab" * 20, "2023-11-14T22:13:20.000000Z", None, None)


def test_tables_hold_the_run_and_are_one_row_group_a_shard(run):
    for table in TABLES:
        file = pq.ParquetFile(run.path(table))
        assert file.num_row_groups == 1 and file.metadata.row_group(0).column(0).compression == "ZSTD"
        for row in contents(run, table, lineage=True):
            assert (row["parameter_hash"], row["produced_by_fingerprint"]) == (run.lineage.parameter_hash, run.lineage.manifest_fingerprint)


# ---- nothing but the inputs decides ---------------------------------------------------------------------------------


def test_same_request_elsewhere_gives_the_same_bytes(run, world, tmp_path):
    assert tree(run_of(tmp_path / "elsewhere", world).root) == tree(run.root)


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_order_of_the_input_rows_does_not_matter(run, world, tmp_path, order):
    shuffled = rows(world, MERCHANTS)[::-1]
    if order == "shuffled":
        random.Random(3).shuffle(shuffled)
    other = run_of(tmp_path / "run", overlay_pack(world, {MERCHANTS: table_bytes(world, MERCHANTS, shuffled)}, tmp_path / "pack"))
    assert other.lineage.parameter_hash == run.lineage.parameter_hash and other.lineage.manifest_fingerprint != run.lineage.manifest_fingerprint
    for table in TABLES:
        assert contents(other, table) == contents(run, table)


def test_number_of_workers_does_not_matter(sharded_pack, tmp_path, monkeypatch):
    trees = []
    for workers in ("1", "3"):
        monkeypatch.setitem(os.environ, "SEG1A_WORKERS", workers)
        run = run_of(tmp_path / workers, sharded_pack)
        groups = pq.ParquetFile(run.path("hurdle_design_matrix")).metadata
        assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [SHARD, SHARD, 70_000 - 2 * SHARD]
        assert validate_s0(run).passed
        trees.append(tree(run.root))
    assert trees[0] == trees[1]


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_seeds_at_the_ends_of_their_range(world, run, tmp_path, seed):
    other = run_of(tmp_path, world, seed=seed)
    assert other.lineage.seed == seed and json.loads(other.path("rng_audit_log").read_text())["seed"] == seed
    assert other.lineage.manifest_fingerprint == run.lineage.manifest_fingerprint and other.lineage.run_id != run.lineage.run_id
    assert other.path("rng_audit_log").parents[2].name == f"seed={seed}" and validate_s0(other).passed
    for table in TABLES:
        assert other.path(table).read_bytes() == run.path(table).read_bytes()


def test_merchant_ids_at_the_ends_of_their_range(world, tmp_path):
    ends = rows(world, MERCHANTS)[:3]
    for row, merchant in zip(ends, (2**63 - 1, 1, 2**53 + 1)):
        row["merchant_id"] = merchant
    run = run_of(tmp_path / "run", overlay_pack(world, {MERCHANTS: table_bytes(world, MERCHANTS, ends)}, tmp_path / "pack"))
    for table in TABLES:
        assert [row["merchant_id"] for row in contents(run, table)] == [1, 2**53 + 1, 2**63 - 1]
    assert validate_s0(run).passed and len({merchant_u64(merchant) for merchant in (1, 2**53 + 1, 2**63 - 1)}) == 3


def test_one_merchant_is_a_universe(world, tmp_path):
    one = {MERCHANTS: table_bytes(world, MERCHANTS, rows(world, MERCHANTS)[:1])}
    report = validate_s0(run_of(tmp_path / "run", overlay_pack(world, one, tmp_path / "pack")))
    assert report.passed and report.metrics["merchants"] == 1


# ---- identities -----------------------------------------------------------------------------------------------------


def test_what_moves_which_hash(run, world, tmp_path):
    def lineage(name, overrides, **fields):
        return run_of(tmp_path / name, overlay_pack(world, overrides, tmp_path / f"{name} pack") if overrides else world, **fields).lineage

    same = (run.lineage.parameter_hash, run.lineage.manifest_fingerprint)
    policy = pack_file(world, "policy.s4.hyperparams.yaml").read_bytes()
    parameter = lineage("parameter", {"policy.s4.hyperparams.yaml": policy + b"# a comment\n"})
    verdict = lineage("verdict", {"validation_policy.yaml": pack_file(world, "validation_policy.yaml").read_bytes() + b"# a comment\n"})
    commit = lineage("commit", {}, git_commit="cd" * 32)
    late, toggled = lineage("late", {}, start_time_ns=START + 10**9), lineage("toggled", {}, options={"s3_priors": True})
    assert parameter.parameter_hash != same[0] and parameter.manifest_fingerprint != same[1]
    assert verdict.parameter_hash == commit.parameter_hash == same[0] and len({verdict.manifest_fingerprint, commit.manifest_fingerprint, same[1]}) == 3
    assert (late.parameter_hash, late.manifest_fingerprint) == (toggled.parameter_hash, toggled.manifest_fingerprint) == same and late.run_id != run.lineage.run_id
    assert master_material(commit.parameter_hash, 7) == run.lineage.master


def test_short_and_long_commits(run, world, tmp_path):
    padded = run_of(tmp_path, world, git_commit="0" * 24 + "ab" * 20)
    assert padded.lineage.manifest_fingerprint == run.lineage.manifest_fingerprint
    assert json.loads(padded.path("rng_audit_log").read_text())["build_commit"] == "0" * 24 + "ab" * 20


def test_run_id_reproduces_and_a_collision_takes_the_next(world, tmp_path):
    first, second, third = (run_of(tmp_path, world) for _ in range(3))
    for ns, one in enumerate((first, second, third), START):
        assert one.lineage.start_time_ns == ns and one.lineage.run_id == run_id(one.lineage.manifest_fingerprint, 7, ns)
        assert one.root == tmp_path / "out" / f"parameter_hash={one.lineage.parameter_hash}" / f"run_id={one.lineage.run_id}"
        assert validate_s0(one).passed
    assert first.path("hurdle_pi_probs").read_bytes() == third.path("hurdle_pi_probs").read_bytes()


def test_fingerprint_is_the_hash_of_what_is_listed(run):
    from seg1a.core.lineage import FileDigest, git_bytes, parameter_hash

    def listed(name):
        lines = (run.state_bundle(0) / name).read_text().splitlines()
        return [FileDigest(row["filename"], Path(row["filename"]), row["size_bytes"], row["sha256_hex"]) for row in map(json.loads, lines)]

    assert parameter_hash(listed("param_digest_log.jsonl")) == run.lineage.parameter_hash
    assert manifest_fingerprint(listed("fingerprint_artifacts.jsonl"), git_bytes("ab" * 20), run.lineage.parameter_hash) == run.lineage.manifest_fingerprint
    names = [digest.name for digest in listed("fingerprint_artifacts.jsonl")]
    assert names == sorted(names) and {"numeric_policy_attest.json", "schemas.1A.yaml", MERCHANTS, "tz_world.parquet"} <= set(names)


# ---- options --------------------------------------------------------------------------------------------------------


def test_without_diagnostics_there_are_no_probabilities(run, world, tmp_path):
    bare = run_of(tmp_path, world, options={"diagnostics": False})
    assert not bare.path("hurdle_pi_probs").exists() and validate_s0(bare).passed
    assert bare.lineage.manifest_fingerprint == run.lineage.manifest_fingerprint
    assert bare.path("hurdle_design_matrix").read_bytes() == run.path("hurdle_design_matrix").read_bytes()


def test_without_validation_there_is_no_flag(world, tmp_path):
    run = run_of(tmp_path, world, options={"validate": (False, True, True, True, True)})
    summary = json.loads((run.state_bundle(0) / "validation_summary.json").read_text())
    assert (summary["validated"], summary["passed"], summary["checks"]) == (False, None, [])
    assert not (run.state_bundle(0) / "_passed.flag").exists()
    require_flags(run, 1)  # the skip is sealed in the stamp: later states may go on, the root flag is withheld
    assert validate_s0(run).passed, "who asks later may still ask"


def test_stamp_records_the_options_and_no_machine(run):
    stamp = json.loads((run.state_bundle(0) / "execution_stamp.json").read_text())
    assert {name: stamp["cli_flags"][name] for name in Options().sealed()} == Options().sealed()
    assert stamp["cli_flags"]["git_commit"] == "ab" * 20 and stamp["start_ns"] == START
    text = "".join(path.read_text() for path in run.state_bundle(0).glob("*.json*"))
    assert str(run.pack) not in text and str(run.root) not in text and "workers" not in text


def test_gdp_of_the_governed_year_is_used(world, tmp_path):
    overrides = changed(world, DISPERSION, lambda content: content.update(gdp_observation_year=2011))
    overrides |= changed(world, GDP, lambda content: [*content, *({**row, "observation_year": 2011, "gdp_pc_usd_2015": 1000.0} for row in content)])
    run = run_of(tmp_path / "run", overlay_pack(world, overrides, tmp_path / "pack"))
    assert {row["gdp_pc_usd_2015"] for row in contents(run, "hurdle_design_matrix")} == {1000.0} and validate_s0(run).passed


def test_pi_is_the_narrowed_probability(run):
    values = contents(run, "hurdle_pi_probs")
    pi, logit = (np.array([row[name] for row in values]) for name in ("pi", "logit"))
    assert np.all((pi > 0) & (pi < 1)) and np.allclose(pi, 1 / (1 + np.exp(-logit)), rtol=1e-6)
