"""State S3 on disk: a run root in, tables, sidecars and evidence out; the known answers once more, now through files."""

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_support import make_run
from test_vectors_s3 import FIELDS, KNOWN, WORLD, bulk, labels, policy_bytes

from seg1a.core.contracts import contracts
from seg1a.core.encoding import canonical_json, canonical_line, read_json
from seg1a.core.errors import NotPassed, Seg1aError
from seg1a.core.gates import require_flags, verify_flag
from seg1a.core.run import Options
from seg1a.core.shards import SHARD
from seg1a.core.tables import MerchantAbort, read_outputs, read_table, write_aborts
from seg1a.states.s3_crossborder import compute_s3, run_s3, write_s3
from seg1a.states.s3_inputs import read_s3
from seg1a.states.s3_merchant import written_tables
from seg1a.states.s3_policies import Lanes
from seg1a.states.s3_validate import examine_s3, sidecar_of, validate_s3


def columns_of(merchants: list[dict]) -> dict[str, list]:
    return {name: [m[name] for m in merchants] for name in (*FIELDS, "is_multi")}


def case_run(folder: Path, case: dict, **options):
    merchants = bulk(**case["bulk"]) if "bulk" in case else case["merchants"]
    return make_run(folder, WORLD, columns_of(merchants), {role: policy_bytes(name) for role, name in case["policies"].items()}, Lanes(**case["toggles"]),
                    case["parameter_hash"], case["manifest_fingerprint"], **options)


def tree(run) -> dict[str, bytes]:
    return {p.relative_to(run.root).as_posix(): p.read_bytes() for p in sorted(run.root.rglob("*")) if p.is_file()}


def finished(run) -> str | None:
    "The code with which S3 ends, None for a PASS."
    try:
        run_s3(run)
    except Seg1aError as error:
        return error.code
    return None


SMALL = KNOWN["cases"][10]


# ---------------------------------------------------------------- the known answers through files
@pytest.mark.parametrize("case", KNOWN["cases"], ids=labels(KNOWN["cases"]))
def test_vectors_case_on_disk(case, tmp_path):
    run, expected = case_run(tmp_path, case), case["expected"]
    code = finished(run)
    summary = read_json((run.state_bundle(3) / "validation_summary.json").read_bytes(), "summary")
    assert summary["metrics"] == expected["metrics"]
    assert summary["failed_merchants"] == expected["failed_merchants"]
    assert {d: summary["row_counts"][d] for d in expected["row_counts"]} == expected["row_counts"]
    assert {d: summary["content_sha256"][d] for d in expected["content_sha256"]} == expected["content_sha256"]
    assert hashlib.sha256((run.state_bundle(3) / "integerisation_diagnostics.jsonl").read_bytes()).hexdigest() == expected["diagnostics_sha256"]
    for dataset_id, digest in expected["content_sha256"].items():
        if "bulk" not in case:
            assert hashlib.sha256(b"".join(map(canonical_line, read_table(run, dataset_id).to_pylist()))).hexdigest() == digest
        assert read_json(run.path(f"{dataset_id}_manifest").read_bytes(), "sidecar")["content_sha256"] == digest
    assert (code is None) == (not expected["failed_merchants"]) == (run.state_bundle(3) / "_passed.flag").exists()
    for name in ("validation_summary.json", "integerisation_diagnostics.jsonl", "failures.jsonl"):
        assert not contracts().document_problems("s3_crossborder_universe", name, (run.state_bundle(3) / name).read_bytes())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    run = case_run(tmp_path_factory.mktemp("small"), SMALL)
    run_s3(run)
    return run


def edited(rows: list[dict], case: dict) -> list[dict]:
    "The rows of a table after the edit of a tamper case."
    rows = copy.deepcopy(rows)
    match case["op"]:
        case "set":
            rows[case["row"]] |= case["values"]
        case "drop":
            del rows[case["row"]]
        case "append":
            rows.append(case["values"])
        case "swap":
            a, b = (rows[i] for i in case["rows"])
            for name in case["columns"]:
                a[name], b[name] = b[name], a[name]
    if case.get("resort"):
        order = contracts().dataset(case["table"]).ordering
        rows.sort(key=lambda row: tuple(row[name] for name in order))
    return rows


def store(path: Path, dataset_id: str, rows: list[dict]) -> None:
    "Write rows as Parquet with the contract's types, or whatever types they need if they do not fit."
    schema, names = contracts().arrow_schema(dataset_id), {name: None for row in rows for name in row}
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values, schema.field(name).type)
        except (KeyError, pa.ArrowException, TypeError):
            columns[name] = pa.array([float(v) if isinstance(v, (float, str)) else v for v in values])
    known = [schema.field(n).with_nullable(schema.field(n).nullable or columns[n].null_count > 0) if n in schema.names and columns[n].type == schema.field(n).type
             else pa.field(n, columns[n].type) for n in columns]
    pq.write_table(pa.table(list(columns.values()), schema=pa.schema(known)), path)


@pytest.mark.parametrize("case", KNOWN["tamper"], ids=labels(KNOWN["tamper"]))
def test_vectors_tamper_on_disk(case, tmp_path):
    """An edit of a finished table, its sidecar made to agree: what remains to be found is the edit itself."""
    run = case_run(tmp_path, KNOWN["cases"][case["case"]])
    run_s3(run)
    dataset_id, path = case["table"], run.path(case["table"])
    rows = read_table(run, dataset_id).to_pylist()
    path.unlink()
    if case["op"] != "drop_table":
        rows = edited(rows, case)
        store(path, dataset_id, rows)
        content = hashlib.sha256("".join(f"{canonical_json(row)}\n" for row in rows).encode()).hexdigest()
        sidecar = sidecar_of(run, dataset_id, Lanes(True, True, True), len(rows), hashlib.sha256(path.read_bytes()).hexdigest(), content)
        run.path(f"{dataset_id}_manifest").write_bytes(canonical_line(sidecar))
    examination, expected = examine_s3(run), case["expected"]
    assert examination.report.passed is expected["passed"], examination.report.findings
    assert examination.summary["error_code"] == expected["run_code"]
    assert examination.summary["failed_merchants"] == expected["failed_merchants"]
    assert {str(line["merchant_id"]): line["code"] for line in examination.failures} == expected["failed_merchants"]


# ---------------------------------------------------------------- determinism
def many(n: int, share: float) -> dict[str, list]:
    rng = np.random.default_rng(3)
    return {"merchant_id": np.cumsum(rng.integers(1, 50, n)).tolist(), "home_country_iso": rng.choice(WORLD, n).tolist(), "mcc": rng.choice([5411, 5816, 7011], n).tolist(),
            "channel": rng.choice(["CP", "CNP"], n).tolist(), "n_outlets": (2 + rng.poisson(7, n)).tolist(), "is_multi": (rng.random(n) < share).tolist()}


POLICIES = {role: policy_bytes(name) for role, name in SMALL["policies"].items()}


def test_shards_workers_and_row_order_change_no_byte(tmp_path):
    columns = many(SHARD * 2 + 500, 0.01)
    one = make_run(tmp_path / "one", WORLD, columns, POLICIES, Lanes(True, True, True), workers=1)
    two = make_run(tmp_path / "two", WORLD, columns, POLICIES, Lanes(True, True, True), workers=3)
    run_s3(one), run_s3(two)
    first, second = tree(one), tree(two)
    assert first == second
    order = np.random.default_rng(9).permutation(len(columns["merchant_id"]))
    shuffled = make_run(tmp_path / "three", WORLD, {k: [v[i] for i in order] for k, v in columns.items()}, POLICIES, Lanes(True, True, True))
    run_s3(shuffled)
    third = tree(shuffled)
    assert {k: v for k, v in first.items() if "parameter_scoped" in k or "crossborder" in k} == {k: v for k, v in third.items() if "parameter_scoped" in k or "crossborder" in k}
    universe = np.array(columns["merchant_id"])
    file = pq.ParquetFile(one.path("s3_candidate_set"))
    assert file.num_row_groups == 3
    for group in range(3):
        ids = file.read_row_group(group, ["merchant_id"])["merchant_id"].to_numpy()
        places = np.searchsorted(universe, ids)
        assert set(places // SHARD) == {group}


def test_a_shard_without_merchants_has_no_row_group(tmp_path):
    columns = many(SHARD * 2 + 10, 0.02)
    columns["is_multi"] = [multi and not SHARD <= i < 2 * SHARD for i, multi in enumerate(columns["is_multi"])]
    run = make_run(tmp_path, WORLD, columns, POLICIES)
    assert finished(run) is None
    expected = 2 if any(columns["is_multi"][2 * SHARD:]) else 1
    assert pq.ParquetFile(run.path("s3_eligibility")).num_row_groups == expected


def test_second_run_writes_nothing_new(small):
    before = {path: path.stat().st_mtime_ns for path in small.path("s3_candidate_set").parent.iterdir()}
    records = read_outputs(small, 3)
    assert finished(small) is None
    assert read_outputs(small, 3) == records
    assert {path: path.stat().st_mtime_ns for path in small.path("s3_candidate_set").parent.iterdir()} == before


def test_a_killed_run_goes_on(tmp_path, small):
    run = case_run(tmp_path, SMALL)
    run_s3(run)
    for name in ("s3_integerised_counts_manifest", "s3_site_sequence", "s3_site_sequence_manifest", "s3_base_weight_priors"):
        run.path(name).unlink()
    assert finished(run) is None
    assert tree(run) == tree(small)


@pytest.mark.parametrize("change", [{"seed": 8}, {"manifest_fingerprint": "9" * 64}])
def test_another_run_in_the_same_root_is_refused(change, tmp_path):
    run = case_run(tmp_path, SMALL)
    inputs = read_s3(run)
    plan = compute_s3(inputs)
    write_s3(run, inputs, plan)
    before = tree(run)
    with pytest.raises(Seg1aError) as refused:
        write_s3(replace(run, lineage=replace(run.lineage, **change)), inputs, plan)
    assert refused.value.code == "ERR_S3_IDEMPOTENCE_VIOLATION"
    assert tree(run) == before


# ---------------------------------------------------------------- evidence and gates
def test_empty_domain_passes(tmp_path):
    columns = many(50, 0.0)
    run = make_run(tmp_path, WORLD, columns, POLICIES, Lanes(True, True, True))
    assert finished(run) is None
    assert all(read_table(run, d).num_rows == 0 for d in written_tables(Lanes(True, True, True)))
    assert validate_s3(run).metrics["priors_total_weight"] == "0.000000"


def test_sealed_files_name_no_place_and_no_clock(small):
    text = b"".join(data for name, data in tree(small).items() if "crossborder" in name or name.endswith("_manifest.json"))
    assert str(small.root).encode() not in text and b"17000000" not in text and b"2023-" not in text


def test_flag_and_gate(small):
    require_flags(small, 4)
    assert len(verify_flag(small.state_bundle(3))) == 64
    summary = read_json((small.work_dir(3) / "summary.json").read_bytes(), "summary")
    assert summary["state"] == "S3" and summary["passed"] is True and summary["validated"] is True and summary["rng"] == []
    assert {"s3_candidate_set", "s3_eligibility", "s3_site_sequence"} <= summary["rows"].keys()


def test_eligibility_equals_the_ladder(tmp_path):
    run = make_run(tmp_path, WORLD, many(400, 0.9), POLICIES)
    run_s3(run)
    rows, sizes = read_table(run, "s3_eligibility").to_pylist(), {}
    for merchant in read_table(run, "s3_candidate_set", ["merchant_id"])["merchant_id"].to_pylist():
        sizes[merchant] = sizes.get(merchant, 0) + 1
    assert sizes.keys() == {row["merchant_id"] for row in rows}
    assert all(sizes[row["merchant_id"]] == 1 for row in rows if not row["eligible_crossborder"])
    assert all(row["decision_rule_id"] in row["fired_rules"] for row in rows)


@pytest.mark.parametrize("state", [0, 1, 2])
def test_closed_gate_stops_before_reading(state, tmp_path):
    run = case_run(tmp_path, SMALL)
    (run.state_bundle(state) / "_passed.flag").unlink()
    assert finished(run) == "ERR_S3_AUTHORITY_MISSING"
    assert not run.path("s3_candidate_set").exists() and not (run.state_bundle(3) / "_passed.flag").exists()
    assert read_json(run.path("failure_record").read_bytes(), "failure")["error_code"] == "ERR_S3_AUTHORITY_MISSING"


def test_failed_merchant_blocks_pass_and_leaves_evidence(tmp_path):
    run = case_run(tmp_path, KNOWN["cases"][3])
    assert finished(run) == "ERR_S3_INTEGER_FEASIBILITY"
    lines = [read_json(line, "failures") for line in (run.state_bundle(3) / "failures.jsonl").read_bytes().splitlines()]
    assert {str(line["merchant_id"]): line["code"] for line in lines} == KNOWN["cases"][3]["expected"]["failed_merchants"]
    assert [line["merchant_id"] for line in lines] == sorted(line["merchant_id"] for line in lines) and {line["stage"] for line in lines} == {"produce"}
    with pytest.raises(NotPassed):
        require_flags(run, 4)


def test_merchants_given_up_by_s2_are_absent(tmp_path):
    run = case_run(tmp_path, SMALL)
    part = run.path("rng_event_nb_final", state=2, shard=0)
    gone = json.loads(part.read_bytes().splitlines()[0])["merchant_id"]
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[1:]))
    assert finished(run) == "ERR_S3_PRECONDITION"
    other = case_run(tmp_path / "other", SMALL)
    other.path("rng_event_nb_final", state=2, shard=0).write_bytes(part.read_bytes())
    write_aborts(other, "S2", [MerchantAbort(gone, "S2", "1A.nb_sampler", "ERR_S2_NUMERIC_INVALID")])
    assert finished(other) is None
    assert gone not in read_table(other, "s3_eligibility")["merchant_id"].to_pylist()


def test_rows_of_another_run_fail_their_merchant(tmp_path):
    run = case_run(tmp_path, SMALL)
    part = run.path("rng_event_hurdle_bernoulli", state=1, shard=0)
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(lines[0].replace(run.lineage.run_id.encode(), b"d" * 32) + b"".join(lines[1:]))
    assert finished(run) == "ERR_S3_PARTITION_MISMATCH"
    assert list(read_s3(run).failures) == [json.loads(lines[0])["merchant_id"]]


def test_double_rows_fail_their_merchant(tmp_path):
    run = case_run(tmp_path, SMALL)
    part = run.path("rng_event_nb_final", state=2, shard=0)
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines) + lines[0])
    assert {code.code for code in read_s3(run).failures.values()} == {"ERR_S3_PRECONDITION"}


@pytest.mark.parametrize("damage", ["byte", "row_group", "sidecar", "no_sidecar", "stale_lane", "truncated", "empty"])
def test_damaged_files_are_found(damage, tmp_path):
    run = case_run(tmp_path, SMALL)
    run_s3(run)
    path, sidecar = run.path("s3_candidate_set"), run.path("s3_candidate_set_manifest")
    data = path.read_bytes()
    match damage:
        case "byte":
            path.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
        case "row_group":
            pq.write_table(read_table(run, "s3_candidate_set"), path, row_group_size=5)
        case "sidecar":
            sidecar.write_bytes(sidecar.read_bytes().replace(b'"seed":7', b'"seed":8'))
        case "no_sidecar":
            sidecar.unlink()
        case "stale_lane":
            run = replace(run, options=Options(s3_priors=True, s3_integerisation=True))
        case "truncated":
            path.write_bytes(data[:100])
        case "empty":
            path.write_bytes(b"")
    assert validate_s3(run).error().code == "ERR_S3_EGRESS_SHAPE"


def test_an_event_part_of_s3_is_found(small, tmp_path):
    run = case_run(tmp_path, SMALL)
    run_s3(run)
    run.path("rng_event_nb_final", state=3, shard=0).write_bytes(b"")
    assert [finding.check for finding in validate_s3(run).findings] == ["R1"]


def test_logs_are_untouched(tmp_path):
    run = case_run(tmp_path, SMALL)
    before = {name: data for name, data in tree(run).items() if name.startswith("logs/")}
    run_s3(run)
    assert {name: data for name, data in tree(run).items() if name.startswith("logs/")} == before
