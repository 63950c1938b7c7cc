"""Every file that a run leaves is known to the dictionary and has a schema of its own: after a pass, after a FAIL, unproved, and with findings."""

import json
import shutil
from pathlib import Path

import pytest
from s1_s2_support import end_to_end_run
from test_s3_run import KNOWN, case_run

from seg1a.core.contracts import contracts
from seg1a.core.errors import Seg1aError
from seg1a.core.run import Lineage, Options, open_run
from seg1a.inputs.pack import overlay_pack
from seg1a.operations.late_proof import renew_summary, seal_late
from seg1a.operations.pipeline import RunRequest, run_pipeline
from seg1a.states.evidence import evidence_files
from seg1a.states.s1_hurdle import run_s1
from seg1a.states.s1_validate import validate_s1
from seg1a.states.s2_nb_outlets import run_s2
from seg1a.states.s2_validate import validate_s2
from seg1a.states.s3_crossborder import run_s3
from seg1a.states.s4_miniature import DEMO_POLICY, merchant_facts, miniature_s4
from seg1a.states.s4_validate import validate_s4, work_folder
from seg1a.states.s4_ztp import run_s4

LINEAGE = Lineage(2**64 - 1, "a" * 64, "b" * 64, "c" * 32, 1_700_000_000_000_000_000)
LANES = Options(s3_priors=True, s3_integerisation=True, s3_sequencing=True, notebooks=False)
FOLDERS = {
    "validation_bundle_1A": """MANIFEST.json parameter_hash_resolved.json manifest_fingerprint_resolved.json param_digest_log.jsonl fingerprint_artifacts.jsonl
        numeric_policy_attest.json execution_stamp.json s0_validation_summary.json validation_summary.json rng_accounting.json outputs_index.json
        evidence_index.json alerts.json SHA256SUMS index.json _passed.flag""",
    "s1_hurdle": "report.json metrics.json catalogue.json _passed.flag",
    "s2_nb_outlets": "report.json metrics.json metrics.csv cusum_trace.csv corridors.json _passed.flag",
    "s3_crossborder_universe": "validation_summary.json integerisation_diagnostics.jsonl failures.jsonl _passed.flag",
    "s4_ztp_target": "merchant_summary.jsonl metrics.json corridors.json validation_summary.json alerts.json _passed.flag",
}


def problems(root: Path) -> list[str]:
    """What is wrong with the documents of a run root: files that the dictionary does not know, and content that no schema admits."""
    found = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        known = contracts().identify(path.relative_to(root).as_posix())
        if known is None:
            found.append(f"{path.relative_to(root)} is in no template")
            continue
        record = contracts().dataset(known[0])
        if record.format == "folder":
            found += [f"{known[0]}: {problem}" for problem in contracts().document_problems(known[0], path.name, path.read_bytes())]
        elif record.format == "json":
            document = json.loads(path.read_bytes())
            found += [f"{known[0]} {e.json_path}: {e.message[:200]}" for e in contracts().row_validator(known[0]).iter_errors(document)]
    return found


def whole_run(pack: Path, folder: Path, status: str, options: Options = LANES) -> Path:
    request = RunRequest(pack=pack, output_dir=folder, seed=7, git_commit="ab" * 20, start_time_ns=LINEAGE.start_time_ns, options=options, workers=1)
    summary = run_pipeline(request)
    assert summary["gate"]["status"] == status, summary["run"]["failure"]
    return Path(summary["output_dir"])


@pytest.fixture(scope="module")
def sealed(small_pack, tmp_path_factory) -> Path:
    return whole_run(small_pack, tmp_path_factory.mktemp("sealed"), "PASS")


# ---- whole runs -------------------------------------------------------------------------------------------------------


def test_every_document_of_a_sealed_run_obeys_its_schema(sealed):
    assert problems(sealed) == []


def test_the_bundle_holds_the_artefacts_of_the_specification_and_no_other(sealed, small_pack):
    run = open_run(sealed, small_pack)
    for name, files in FOLDERS.items():
        folder = run.bundle_dir if name == "validation_bundle_1A" else run.bundle_dir / name
        assert {path.name for path in folder.iterdir() if path.is_file()} == set(files.split()), name
    assert {path.name for path in run.bundle_dir.iterdir() if path.is_dir()} == set(FOLDERS) - {"validation_bundle_1A"}


def test_the_headers_of_the_csv_files(sealed, small_pack):
    folder = open_run(sealed, small_pack).state_bundle(2)
    lines = (folder / "metrics.csv").read_text().split("\n")
    assert lines[0] == "rho_reject,p99_rejections,cusum_max,merchant_count,total_rejections,total_attempts,invalid_alpha_merchants" and len(lines) == 3
    lines = (folder / "cusum_trace.csv").read_text().split("\n")
    metrics = json.loads((folder / "metrics.json").read_bytes())["metrics"]
    assert lines[0] == "merchant_id,alpha,rejections,expected,variance,z_score,cusum"
    assert len(lines) == 2 + metrics["merchant_count"] - metrics["cusum_skipped_merchants"]


def test_a_key_too_many_or_too_few_is_refused_in_every_document(sealed):
    seen = set()
    for path in sorted(sealed.rglob("*.json")):
        id, _ = contracts().identify(path.relative_to(sealed).as_posix())
        whole = json.loads(path.read_bytes())
        if contracts().dataset(id).contents.get(path.name) is None or not isinstance(whole, dict):
            continue
        seen.add((id, path.name))
        assert contracts().document_problems(id, path.name, json.dumps(whole | {"stowaway": 1}).encode()), path
        for key in whole.keys() - {"cli_argv", "package_version", "code_digest", "reason"} - ({"checks"} if path.name == "summary.json" else set()):
            fewer = {other: value for other, value in whole.items() if other != key}
            assert contracts().document_problems(id, path.name, json.dumps(fewer).encode()), (path, key)
    assert len(seen) > 25


def open_objects(schema, where: str):
    """The places of a schema where an object may hold anything."""
    if isinstance(schema, list):
        for i, part in enumerate(schema):
            yield from open_objects(part, f"{where}/{i}")
    if not isinstance(schema, dict):
        return
    closed = {"additionalProperties", "unevaluatedProperties", "maxProperties"} & set(schema)
    if schema.get("type") in ("object", ["object", "null"]) and not closed:
        yield where
    for key, part in schema.items():
        yield from open_objects(part, f"{where}/{key}")


def test_no_document_has_an_open_object():
    references = {ref for record in contracts().datasets().values() if record.root == "run" for ref in [*record.contents.values(), record.schema_ref] if ref}
    found = {place for ref in references for place in open_objects(contracts().schema(ref), ref.partition("$defs/")[2])}
    # facts of an error are its own; a summary is closed in the schema of its state; the envelope of an event is closed with its payload
    known = ("failure_record/properties/detail", "run_summary/properties/run/properties/failure/properties/detail", "state_summary", "rng_event_")
    assert [place for place in sorted(found) if not place.startswith(known)] == []


@pytest.mark.parametrize("off", [(0,), (1, 2, 3, 4)], ids=["s0", "s1-s4"])
def test_a_run_without_proof_and_its_late_proof_obey_the_schemas(small_pack, tmp_path, off):
    options = Options(notebooks=False, validate=tuple(state not in off for state in range(5)))
    root = whole_run(small_pack, tmp_path, "WITHHELD", options)
    assert problems(root) == []
    gate = seal_late(root, lambda: small_pack, 1)
    renew_summary(root, gate)
    assert gate["status"] == "PASS"
    shutil.rmtree(root / "_quarantine", ignore_errors=True)  # what the late proof replaced
    assert problems(root) == []
    summaries = {state: json.loads((root / "run_summary.json").read_bytes())[f"s{state}"] for state in range(5)}
    assert {state: told["passed"] for state, told in summaries.items()} == {state: told["validation_passed"] for state, told in summaries.items()}


def test_a_corridor_breach_leaves_documents_that_obey_their_schemas(small_pack, tmp_path):
    (policy,) = small_pack.rglob("validation_policy.yaml")
    text = policy.read_text()
    (tmp_path / policy.name).write_text(text.replace("rho_reject_max: 0.06", "rho_reject_max: 0.0001", 1))
    pack = overlay_pack(small_pack, {policy.name: tmp_path / policy.name}, tmp_path / "pack")
    root = whole_run(pack, tmp_path / "out", "FAIL")
    assert problems(root) == []
    names = {path.name for path in open_run(root, pack).state_bundle(2).iterdir()}
    assert names == set(FOLDERS["s2_nb_outlets"].split()) - {"_passed.flag"} | {"failures.jsonl", "validation_summary.json"}


# ---- findings of each state -------------------------------------------------------------------------------------------


def refused(call, *arguments) -> str | None:
    try:
        call(*arguments)
    except Seg1aError as error:
        return error.code
    return None


@pytest.mark.parametrize("family, validate", [("hurdle_bernoulli", validate_s1), ("nb_final", validate_s2)])
def test_a_report_with_findings(tmp_path, family, validate):
    run = end_to_end_run(tmp_path)
    run_s1(run)
    run_s2(run)
    (part,) = run.root.glob(f"logs/rng/events/{family}/*/*/*/part-*")
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join([lines[0].replace(b'"seed":', b'"sead":'), *lines[2:], b"no row\n"]))
    report = validate(run)
    more = {"reason": None} if report.state == "S1" else {"merchant_aborts": 0}
    folder = "s1_hurdle" if report.state == "S1" else "s2_nb_outlets"
    files = evidence_files(run, report, **more)
    assert len(report.findings) >= 3 and set(files) == {"report.json", "metrics.json", "failures.jsonl", "validation_summary.json"}
    for name, data in files.items():
        assert contracts().document_problems(folder, name, data) == [], name


def test_s3_with_failed_merchants_and_with_a_breach(tmp_path):
    run = case_run(tmp_path / "merchants", KNOWN["cases"][3])
    assert refused(run_s3, run) == "ERR_S3_INTEGER_FEASIBILITY"
    assert not [line for line in problems(run.root) if line.startswith(("s3_", "validation_work"))]
    run = case_run(tmp_path / "breach", KNOWN["cases"][0])
    (run.state_bundle(2) / "_passed.flag").unlink()
    assert refused(run_s3, run) == "ERR_S3_AUTHORITY_MISSING"
    assert not [line for line in problems(run.root) if line.startswith("s3_")]


def crowd(n: int):
    ids = [7 * i for i in range(1, n + 1)]
    return merchant_facts(ids, is_multi=[True] * n, n_outlets=[2 + i % 61 for i in ids], leaves_home=[i % 10 > 0 for i in ids], foreign_rows=[i % 5 for i in ids])


@pytest.mark.parametrize("rule", ["abort", "downgrade_domestic"])
def test_s4_with_exhausted_merchants_and_a_breach(tmp_path, rule):
    controls = {"ztp_exhaustion_policy": rule, "MAX_ZTP_ZERO_ATTEMPTS": 1}
    policy = DEMO_POLICY | {"ztp_controls": controls, "ztp_link": {"theta0": -3.0, "theta1": 1.0, "theta2": 0.5}}
    run = miniature_s4(tmp_path, LINEAGE, crowd(400), policy, limits={"mean_attempts_warn": 0.5, "mean_attempts_fail": 0.5})
    assert refused(run_s4, run) == "CORRIDOR_BREACH"
    lines = (run.state_bundle(4) / "merchant_summary.jsonl").read_bytes().splitlines()
    assert {"CAP_ABORT" if rule == "abort" else "CAP_DOWNGRADE", "ACCEPT", "SHORT_CIRCUIT"} == {json.loads(line)["outcome"] for line in lines}
    assert not [line for line in problems(run.root) if line.startswith(("s4_", "validation_work"))]


def test_s4_that_cannot_read_its_inputs(tmp_path):
    run = miniature_s4(tmp_path, LINEAGE, crowd(50))
    assert refused(run_s4, run) is None
    (part,) = run.root.glob("logs/rng/events/nb_final/*/*/*/part-*")
    shutil.move(part, tmp_path / "gone")
    assert not validate_s4(run).passed
    for path in work_folder(run).iterdir():
        assert contracts().document_problems("validation_work", path.name, path.read_bytes()) == [], path.name
