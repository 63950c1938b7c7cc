"""The validator of S0 against a run that somebody has changed: each change is found, named by its check and code, and nothing is raised."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s0_support import pack_file, run_of, small_world

from seg1a.core.contracts import REGISTRY, Contracts, contracts
from seg1a.core.encoding import canonical_line
from seg1a.core.findings import Report
from seg1a.core.flags import FLAG, build_index, write_flag
from seg1a.core.run import open_run
from seg1a.states import s0_validate
from seg1a.states.s0_validate import CHECKS, validate_s0

TABLES = ("crossborder_eligibility_flags", "hurdle_design_matrix", "hurdle_pi_probs")


@pytest.fixture(scope="module")
def world(small_pack, tmp_path_factory):
    return small_world(small_pack, tmp_path_factory.mktemp("validate"))


@pytest.fixture(scope="module")
def clean(world, tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("clean"), world)


@pytest.fixture
def run(clean, world, tmp_path):
    """A copy of the run that the test may damage, with a pack of its own."""
    root = tmp_path / clean.root.parent.name / clean.root.name
    shutil.copytree(clean.root, root)
    shutil.copytree(world, tmp_path / "pack")
    return open_run(root, tmp_path / "pack")


def found(report: Report) -> set[tuple[str, str]]:
    return {(finding.check, finding.code) for finding in report.findings}


def failed(report: Report) -> list[str]:
    assert [check.id for check in report.checks] == [check.id for check in CHECKS] and not report.passed
    return [check.id for check in report.checks if check.status == "fail"]


def rewrite_table(run, name: str, change) -> None:
    """Replace a table by `change(table)`, written as one row group like the original."""
    path = run.path(name)
    schema = pq.read_schema(path)
    table = change(pq.read_table(path)).cast(schema)
    pq.write_table(table, path, compression="zstd", row_group_size=max(len(table), 1), store_schema=False)


def with_cell(column: str, row: int, value):
    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[row] = value
        return table.set_column(table.column_names.index(column), table.schema.field(column), pa.array(values, table.schema.field(column).type))

    return change


def reseal(run) -> None:
    """What a careful forger does: index and flag made anew over the changed bundle."""
    excluded = [f"run_id={run.lineage.run_id}"]
    (run.state_bundle(0) / "index.json").write_bytes(build_index(run.state_bundle(0), excluded))
    write_flag(run.state_bundle(0), excluded)


def rewrite_document(run, name: str, **values) -> None:
    path = run.state_bundle(0) / name
    path.write_bytes(canonical_line(json.loads(path.read_bytes()) | values))
    reseal(run)


def test_clean_run_passes_and_a_copy_of_it_too(clean, run):
    for report in map(validate_s0, (clean, run)):
        assert report.passed and not report.findings and report.error() is None


# ---- tables ---------------------------------------------------------------------------------------------------------

CELLS = [
    ("crossborder_eligibility_flags", "is_eligible"), ("crossborder_eligibility_flags", "reason"), ("crossborder_eligibility_flags", "rule_set"),
    ("hurdle_design_matrix", "mcc"), ("hurdle_design_matrix", "channel"), ("hurdle_design_matrix", "gdp_bucket_id"), ("hurdle_design_matrix", "mcc_index"),
    ("hurdle_design_matrix", "channel_index"), ("hurdle_design_matrix", "gdp_pc_usd_2015"), ("hurdle_design_matrix", "ln_gdp_pc"),
    ("hurdle_pi_probs", "logit"), ("hurdle_pi_probs", "pi"),
]  # fmt: skip


def another(column: str, value):
    """Another value that the schema of the column admits."""
    nearby = {"gdp_bucket_id": lambda: value % 5 + 1, "channel_index": lambda: 1 - value, "is_eligible": lambda: not value, "mcc": lambda: value ^ 1, "mcc_index": lambda: value ^ 1,
              "channel": lambda: {"card_present": "card_not_present", "card_not_present": "card_present"}[value]}
    return nearby.get(column, lambda: f"{value}_")()


@pytest.mark.parametrize(("table", "column"), CELLS)
@pytest.mark.parametrize("row", [0, 217, 399])
def test_one_wrong_cell_is_found_at_its_row(run, table, column, row):
    content = pq.read_table(run.path(table))
    value = content[column][row].as_py()
    width = {pa.float32(): np.float32, pa.float64(): np.float64}.get(content.schema.field(column).type)
    wrong = another(column, value) if width is None else float(np.nextafter(width(value), width(0)))
    rewrite_table(run, table, with_cell(column, row, wrong))
    report = validate_s0(run)
    assert failed(report) == ["V6"] and len(report.findings) == 1
    (finding,) = report.findings
    assert (finding.code, finding.file, finding.row, finding.merchant_id) == ("E_VALIDATION_MISMATCH", run.relative(run.path(table)), row, content["merchant_id"][row].as_py())
    assert (finding.expected, finding.observed) == (value, wrong) and report.error().detail["row"] == row


SHAPES = {
    "row missing": (lambda table: table.slice(1), {("V4", "E_VALIDATION_MISMATCH"), ("V5", "E_VALIDATION_MISMATCH")}),
    "row twice": (lambda table: pa.concat_tables([table, table.slice(399)]), {("V4", "E_VALIDATION_MISMATCH"), ("V5", "E_VALIDATION_MISMATCH")}),
    "no rows": (lambda table: table.slice(0, 0), {("V4", "E_VALIDATION_MISMATCH"), ("V5", "E_VALIDATION_MISMATCH")}),
    "two rows swapped": (lambda table: table.take([1, 0, *range(2, 400)]), {("V4", "E_VALIDATION_MISMATCH")}),
    "stranger": (with_cell("merchant_id", 399, 2**63 - 1), {("V5", "E_VALIDATION_MISMATCH")}),
    "rows of another run": (with_cell("parameter_hash", 17, "e" * 64), {("V4", "E_PARTITION_MISMATCH")}),
    "rows of another fingerprint": (with_cell("produced_by_fingerprint", 0, "e" * 64), {("V4", "E_PARTITION_MISMATCH")}),
    "id below 1": (with_cell("merchant_id", 0, 0), {("V4", "E_TABLE_SCHEMA"), ("V4", "E_VALIDATION_MISMATCH"), ("V5", "E_VALIDATION_MISMATCH")}),
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("case", SHAPES)
def test_wrong_shape_of_a_table_is_found(run, table, case):
    change, expected = SHAPES[case]
    rewrite_table(run, table, change)
    report = validate_s0(run)
    failed(report)
    assert found(report) == expected


def test_null_fingerprint_of_a_row_is_allowed(run):
    rewrite_table(run, "hurdle_pi_probs", with_cell("produced_by_fingerprint", 5, None))
    assert validate_s0(run).passed


def test_several_row_groups_in_one_shard_are_found(run):
    path = run.path("hurdle_pi_probs")
    pq.write_table(pq.read_table(path), path, row_group_size=100, store_schema=False)
    report = validate_s0(run)
    assert failed(report) == ["V4"] and [finding.observed for finding in report.findings] == [100] * 4


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("damage", "code"), [(None, "E_TABLE_MISSING"), (lambda data: data[: len(data) // 2], "E_TABLE_UNREADABLE"), (lambda data: b"", "E_TABLE_UNREADABLE")])
def test_lost_or_torn_table(run, table, damage, code):
    data = run.path(table).read_bytes()
    run.path(table).unlink() if damage is None else run.path(table).write_bytes(damage(data))
    report = validate_s0(run)
    assert failed(report) == ["V4", "V5"] and ("V4", code) in found(report)
    assert next(check for check in report.checks if check.id == "V5").failed == 400


def test_table_nobody_ordered(world, tmp_path):
    run = run_of(tmp_path, world, options={"diagnostics": False})
    shutil.copyfile(run.path("hurdle_design_matrix"), run.path("hurdle_pi_probs"))
    assert failed(validate_s0(run)) == ["V4"]


# ---- documents ------------------------------------------------------------------------------------------------------

FORGED = {
    "parameter hash": ("parameter_hash_resolved.json", {"parameter_hash": "0" * 64}, "V2"),
    "names": ("parameter_hash_resolved.json", {"filenames_sorted": ["a"]}, "V2"),
    "number of files": ("manifest_fingerprint_resolved.json", {"artifact_count": 1}, "V2"),
    "fingerprint": ("manifest_fingerprint_resolved.json", {"manifest_fingerprint": "0" * 64}, "V2"),
    "commit": ("MANIFEST.json", {"git_commit_hex": "1" * 64}, "V2"),
    "seed": ("MANIFEST.json", {"seed": 8}, "V3"),
    "clock": ("MANIFEST.json", {"created_utc_ns": 5}, "V3"),
    "policy": ("MANIFEST.json", {"numeric_policy_version": "0.9"}, "V8"),
    "profile": ("numeric_policy_attest.json", {"math_profile_id": "other"}, "V8"),
    "parameter files": ("execution_stamp.json", {"parameter_files": {}}, "V2"),
    "stamped commit": ("execution_stamp.json", {"git_commit_hex": "1" * 40}, "V2"),
    "pack": ("execution_stamp.json", {"pack_manifest_sha256": "0" * 64}, "V1"),
    "checksums": ("execution_stamp.json", {"checksums_sha256": "0" * 64}, "V1"),
    "version of the pack": ("execution_stamp.json", {"pack_version": "other"}, "V1"),
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_document_is_found_behind_a_valid_flag(run, case):
    name, values, check = FORGED[case]
    rewrite_document(run, name, **values)
    report = validate_s0(run)
    assert check in failed(report) and "V11" not in failed(report)
    assert {code for _, code in found(report)} <= {"E_VALIDATION_MISMATCH", "E_ARTIFACT_UNSEALED"}


@pytest.mark.parametrize(("name", "values", "checks"), [("MANIFEST.json", {"version": "2"}, {"V2", "V3", "V8", "V11"}), ("execution_stamp.json", {"parameter_files": []}, {"V1", "V2", "V3", "V11"}),
                                                        ("numeric_policy_attest.json", {"passed": False}, {"V1", "V2", "V8", "V11"})])  # fmt: skip
def test_malformed_document_fails_the_checks_that_need_it(run, name, values, checks):
    rewrite_document(run, name, **values)
    assert set(failed(validate_s0(run))) == checks


@pytest.mark.parametrize("change", [lambda rows: rows[1:], lambda rows: [*rows, rows[0]], lambda rows: [{**rows[0], "sha256_hex": "0" * 64}, *rows[1:]], lambda rows: [{**rows[0], "size_bytes": 1}, *rows[1:]]])
@pytest.mark.parametrize("name", ["param_digest_log.jsonl", "fingerprint_artifacts.jsonl"])
def test_forged_list_of_digests(run, name, change):
    path = run.state_bundle(0) / name
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_bytes(b"".join(map(canonical_line, change(rows))))
    reseal(run)
    assert not {"V1", "V2"}.isdisjoint(failed(validate_s0(run)))


@pytest.mark.parametrize("name", ["MANIFEST.json", "parameter_hash_resolved.json", "manifest_fingerprint_resolved.json", "param_digest_log.jsonl", "fingerprint_artifacts.jsonl", "numeric_policy_attest.json",
                                  "execution_stamp.json", "validation_summary.json", "index.json", FLAG])  # fmt: skip
def test_every_document_is_missed(run, name):
    (run.state_bundle(0) / name).unlink()
    report = validate_s0(run)
    assert "V11" in failed(report) and {code for check, code in found(report) if check == "V11"} <= {"E_BUNDLE_INCOMPLETE", "E_GATE_MISMATCH"}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"a":1}', b"\xff\xfe", b"{}\n{}\n"])
@pytest.mark.parametrize("name", ["MANIFEST.json", "fingerprint_artifacts.jsonl", "execution_stamp.json", "index.json", FLAG])
def test_hostile_bytes_are_findings_and_not_exceptions(run, name, data):
    (run.state_bundle(0) / name).write_bytes(data)
    assert "V11" in failed(validate_s0(run))


def test_surplus_file_in_the_bundle(run):
    (run.state_bundle(0) / "notes.txt").write_text("x")
    reseal(run)
    assert found(validate_s0(run)) == {("V11", "E_DICTIONARY_PATH")}


def test_flag_of_a_run_that_was_not_validated(world, tmp_path):
    run = run_of(tmp_path, world, options={"validate": (False, True, True, True, True)})
    rewrite_document(run, "validation_summary.json", passed=True)
    assert found(validate_s0(run)) == {("V11", "E_GATE_MISMATCH")}


# ---- inputs, log, paths ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["crossborder_hyperparams.yaml", "transaction_schema_merchant_ids.parquet", "tz_world.parquet", "numeric_policy.json"])
def test_input_that_changed_after_the_seal(run, name):
    path = pack_file(run.pack, name)
    path.write_bytes(path.read_bytes() + b"\n")
    report = validate_s0(run)
    assert {"V1", "V2"} <= set(failed(report)) and {code for check, code in found(report) if check in ("V1", "V2")} == {"E_ARTIFACT_UNSEALED"}


def test_pack_that_is_gone(run):
    shutil.rmtree(run.pack)
    report = validate_s0(run)
    assert {"V1", "V2", "V4", "V5", "V6", "V7", "V8"} <= set(failed(report)) and report.warnings and not report.metrics


AUDIT = {
    "missing": (lambda line: b"", "E_RNG_AUDIT_MISSING"),
    "twice": (lambda line: line + line, "E_RNG_AUDIT_MISSING"),
    "seed": (lambda line: line.replace(b'"seed":7', b'"seed":8'), "E_LOG_PARTITION"),
    "clock": (lambda line: line.replace(b"2023-", b"2024-"), "E_LOG_PARTITION"),
    "key": (lambda line: canonical_line(json.loads(line) | {"rng_key_lo": 0}), "E_RNG_COUNTER"),
    "counter": (lambda line: canonical_line(json.loads(line) | {"rng_counter_hi": 0}), "E_RNG_COUNTER"),
    "code": (lambda line: canonical_line(json.loads(line) | {"code_digest": "0" * 64}), "E_VALIDATION_MISMATCH"),
    "engine": (lambda line: line.replace(b"philox2x64-10", b"philox2x64-7"), "E_RNG_ENVELOPE"),
    "no json": (lambda line: b"{\n", "E_RNG_ENVELOPE"),
    "blank": (lambda line: line.replace(b":", b": ", 1), "E_RNG_ENVELOPE"),
    "no line end": (lambda line: line[:-1], "E_RNG_ENVELOPE"),
}


@pytest.mark.parametrize("case", AUDIT)
def test_audit_log(run, case):
    change, code = AUDIT[case]
    path = run.path("rng_audit_log")
    path.write_bytes(change(path.read_bytes()))
    assert found(validate_s0(run)) == {("V9", code)}


def test_run_root_of_another_run(run):
    path = run.root / "run_root.json"
    path.write_bytes(path.read_bytes().replace(b'"seed":7', b'"seed":8'))
    assert found(validate_s0(run)) == {("V3", "E_VALIDATION_MISMATCH")}


@pytest.mark.parametrize("path", ["parameter_scoped/notes.txt", "parameter_scoped/parameter_hash={0}/hurdle_pi_probs.parquet", "logs/rng/audit/rng_audit_log.jsonl"])
def test_file_at_a_place_of_no_dataset(run, path):
    place = run.root / path.format("0" * 64)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("x")
    assert found(validate_s0(run)) == {("V10", "E_DICTIONARY_PATH")}


def staging_of(run):
    staging = run.root / "_tmp.staging"
    shutil.copytree(run.state_bundle(0), staging, ignore=shutil.ignore_patterns("run_id=*", "validation_summary.json", "index.json", FLAG))
    return staging


@pytest.mark.parametrize("dataset_id", ["rng_event_hurdle_bernoulli", "rng_event_ztp_final", "rng_trace_log"])
def test_draws_before_the_gate_are_found_while_s0_runs_and_only_then(run, dataset_id):
    staging = staging_of(run)
    assert validate_s0(run, staging).passed
    path = run.path(dataset_id, state=1, shard=0)
    path.parent.mkdir(parents=True)
    path.write_text("{}\n")
    assert found(validate_s0(run, staging)) == {("V9", "E_VALIDATION_MISMATCH")} and validate_s0(run).passed


@pytest.mark.parametrize("name", ["MANIFEST.json", "param_digest_log.jsonl", "execution_stamp.json"])
def test_staged_bundle_must_be_complete(run, name):
    staging = staging_of(run)
    (staging / name).unlink()
    report = validate_s0(run, staging)
    assert "V11" in failed(report) and {code for _, code in found(report)} == {"E_BUNDLE_INCOMPLETE"}


def test_sampler_that_mentions_the_diagnostic_is_found(run, tmp_path, monkeypatch):
    from seg1a.states import s0_validate

    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "s1_hurdle.py").write_text("table = 'hurdle_pi_probs'\n")
    (tmp_path / "states" / "s0_design.py").write_text("table = 'hurdle_pi_probs'\n")
    monkeypatch.setattr(s0_validate.resources, "files", lambda package: tmp_path)
    report = validate_s0(run)
    assert ("V12", "E_VALIDATION_MISMATCH") in found(report) and [f.message for f in report.findings if f.check == "V12"] == ["s1_hurdle.py mentions hurdle_pi_probs"]


def test_every_flipped_bit_of_what_s0_proves_is_found(run):
    """One bit in the middle of every file that S0 is answerable for."""
    working_papers = run.work_dir(0)
    for path in sorted(path for path in run.root.rglob("*") if path.is_file() and working_papers not in path.parents):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :])
        assert not validate_s0(run).passed, path.name
        path.write_bytes(data)
    assert validate_s0(run).passed


# ---- what is remembered -----------------------------------------------------------------------------------------------


def asked_again() -> list:
    """The findings of the lint in a process that has not asked yet."""
    s0_validate._lint.cache_clear()
    return s0_validate._lint()


def test_lint_is_remembered_for_these_documents_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setenv("SEG1A_CACHE_DIR", str(tmp_path))
    lint, asked = Contracts.lint, []
    monkeypatch.setattr(Contracts, "lint", lambda self: asked.append(self) or lint(self))
    assert asked_again() == asked_again() == [] and len(asked) == 1
    text = contracts().document(REGISTRY).decode()
    broken = Contracts({REGISTRY: text.replace("licence: internal}", "licence: internal, owner: me}", 1).encode()})
    monkeypatch.setattr(s0_validate, "contracts", lambda: broken)
    assert [code for code, _, _ in asked_again()] == ["E_AUTHORITY_BREACH"] and asked_again() and len(asked) == 2
    monkeypatch.setattr(s0_validate, "contracts", contracts)
    monkeypatch.setattr(s0_validate, "code_digest", lambda: "0" * 64)
    assert asked_again() == [] and len(asked) == 3, "other code asks for itself"


def test_torn_answer_of_the_lint_is_not_believed(tmp_path, monkeypatch):
    monkeypatch.setenv("SEG1A_CACHE_DIR", str(tmp_path))
    asked_again()
    (answer,) = (tmp_path / "lint").iterdir()
    answer.write_bytes(answer.read_bytes()[:-1] + b'"E_AUTHORITY_BREACH: torn"]')
    assert asked_again() == []
