"""Everything that S0 refuses: one small broken pack or request each; the failure leaves its record and nothing else."""

import json
import math
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s0_support import BUCKETS, DISPERSION, ELIGIBILITY, GDP, HURDLE, ISO, MERCHANTS, START, changed, claimed_root, document, pack_file, request_file, rows, run_of, small_world

from seg1a.core import lineage, numerics
from seg1a.core.contracts import contracts
from seg1a.core.encoding import canonical_json
from seg1a.core.errors import Seg1aError, StagingError
from seg1a.core.lineage import run_id
from seg1a.core.numerics import profile_checksum
from seg1a.core.run import Lineage, failure_path, unsealed_lineage
from seg1a.inputs.manifest import read_manifest
from seg1a.inputs.pack import overlay_pack
from seg1a.states import s0_foundations
from seg1a.states.s0_foundations import run_s0

RECORD_KEYS = {"failure_class", "failure_code", "error_code", "state", "module", "dataset_id", "merchant_id", "parameter_hash", "manifest_fingerprint", "seed", "run_id", "ts_utc", "detail"}
AFTER_THE_FINGERPRINT = {"E_GDP_MISSING", "E_BUCKET_MISSING", "E_DSGN_UNKNOWN_MCC", "E_PI_NAN_OR_INF"}  # S0.4, S0.5, S0.7


@pytest.fixture(scope="module")
def world(small_pack, tmp_path_factory):
    return small_world(small_pack, tmp_path_factory.mktemp("failures"))


def refused(folder, pack, code: str, **fields) -> dict:
    """Run S0, expect `code`, check that exactly a failure record was left; returns the record."""
    with pytest.raises(Seg1aError) as caught:
        run_s0(request_file(folder, pack, **fields))
    assert caught.value.code == code, caught.value
    root = claimed_root(folder)
    (path,) = root.rglob("failure.json")
    record = json.loads(path.read_bytes())
    assert path.with_name("_FAILED.SENTINEL.json").read_bytes() == path.read_bytes()
    assert set(record) == RECORD_KEYS and (record["error_code"], record["state"], record["ts_utc"]) == (code, "S0", START)
    assert (record["failure_class"], record["failure_code"]) == (caught.value.failure_class, caught.value.failure_code)
    assert not list(contracts().row_validator("failure_record").iter_errors(record)) and record["detail"]["message"]
    assert "Traceback" not in path.read_text()
    assert not [left for left in folder.rglob("*") if left.name.startswith("_tmp") or left.name in ("_passed.flag", "run_summary.json")]
    return record


def refused_early(folder, pack, code: str, **fields) -> dict:
    """The same for a failure before the first table: no table, no log, the record at the place that its own lineage names."""
    record, root = refused(folder, pack, code, **fields), claimed_root(folder)
    who = Lineage(*(record[key] for key in ("seed", "parameter_hash", "manifest_fingerprint", "run_id")), START)
    places = {failure_path(root, who).relative_to(root).with_name(name).as_posix() for name in ("failure.json", "_FAILED.SENTINEL.json")}
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert places <= files <= places | {"run_root.json"}
    assert root.name == f"run_id={who.run_id}" and root.parent == folder / "out" / f"parameter_hash={who.parameter_hash}"
    if code not in AFTER_THE_FINGERPRINT:
        assert who == unsealed_lineage(fields.get("seed", 7), START)
    return record


def set_row(number: int, **values):
    return lambda content: content[number].update(values)


def first_home(pack) -> str:
    return rows(pack, MERCHANTS)[0]["home_country_iso"]


# ---- tables ---------------------------------------------------------------------------------------------------------


def without_column(pack):
    table = pq.read_table(pack_file(pack, MERCHANTS)).drop_columns(["channel"])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return {MERCHANTS: sink.getvalue().to_pybytes()}


def with_narrow_ids(pack):
    table = pq.read_table(pack_file(pack, MERCHANTS))
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(0, "merchant_id", pa.array(range(1, len(table) + 1), pa.int32())), sink)
    return {MERCHANTS: sink.getvalue().to_pybytes()}


def repeat_first(content):
    return [*content, content[0]]


TABLES = {
    "E_INGRESS_EMPTY": lambda pack: changed(pack, MERCHANTS, lambda content: content.clear()),
    "E_INGRESS_SCHEMA": without_column,
    "E_INGRESS_SCHEMA type": with_narrow_ids,
    "E_INGRESS_SCHEMA id": lambda pack: changed(pack, MERCHANTS, set_row(3, merchant_id=0)),
    "E_INGRESS_SCHEMA torn": lambda pack: {MERCHANTS: pack_file(pack, MERCHANTS).read_bytes()[:-30]},
    "E_INGRESS_PK_DUP": lambda pack: changed(pack, MERCHANTS, repeat_first),
    "E_MCC_OUT_OF_DOMAIN": lambda pack: changed(pack, MERCHANTS, set_row(3, mcc=10_000)),
    "E_CHANNEL_VALUE": lambda pack: changed(pack, MERCHANTS, set_row(3, channel="CP")),
    "E_FK_HOME_ISO": lambda pack: changed(pack, MERCHANTS, set_row(3, home_country_iso="QQ")),
    "E_ISO_TABLE_SCHEMA": lambda pack: changed(pack, ISO, set_row(0, country_iso="x1")),
    "E_ISO_TABLE_SCHEMA twice": lambda pack: changed(pack, ISO, repeat_first),
    "E_ISO_TABLE_SCHEMA torn": lambda pack: {ISO: b"PAR1"},
    "E_GDP_SCHEMA": lambda pack: {GDP: pack_file(pack, ISO).read_bytes()},
    "E_BUCKET_SCHEMA": lambda pack: changed(pack, BUCKETS, set_row(0, method="quantile")),
    "E_REF_ISO_FK": lambda pack: changed(pack, GDP, set_row(0, country_iso="QQ")),
    "E_REF_ISO_FK bucket": lambda pack: changed(pack, BUCKETS, set_row(0, country_iso="QQ")),
    "E_GDP_DUP": lambda pack: changed(pack, GDP, repeat_first),
    "E_BUCKET_DUP": lambda pack: changed(pack, BUCKETS, repeat_first),
    "E_GDP_NONPOS": lambda pack: changed(pack, GDP, set_row(0, gdp_pc_usd_2015=-1.0)),
    "E_GDP_NONPOS nan": lambda pack: changed(pack, GDP, set_row(0, gdp_pc_usd_2015=math.nan)),
    "E_BUCKET_RANGE": lambda pack: changed(pack, BUCKETS, set_row(0, bucket_id=6)),
    "E_GDP_MISSING": lambda pack: changed(pack, GDP, lambda content: [row for row in content if row["country_iso"] != first_home(pack)]),
    "E_BUCKET_MISSING": lambda pack: changed(pack, BUCKETS, lambda content: [row for row in content if row["country_iso"] != first_home(pack)]),
    "E_DSGN_UNKNOWN_MCC": lambda pack: changed(pack, MERCHANTS, set_row(3, mcc=1)),
}


@pytest.mark.parametrize("case", TABLES)
def test_table_is_refused(world, tmp_path, case):
    refused_early(tmp_path, overlay_pack(world, TABLES[case](world), tmp_path / "pack"), case.split(" ")[0])


def test_the_record_names_merchant_and_row(world, tmp_path):
    merchant = rows(world, MERCHANTS)[3]["merchant_id"]
    record = refused_early(tmp_path, overlay_pack(world, TABLES["E_FK_HOME_ISO"](world), tmp_path / "pack"), "E_FK_HOME_ISO")
    assert record["detail"] | {"row_pk": merchant, "row": 3, "field": "home_country_iso", "value": "QQ"} == record["detail"]


# ---- parameter files ------------------------------------------------------------------------------------------------


def with_key(name: str, **values):
    return lambda pack: changed(pack, name, lambda content: content.update(values))


def on_beta(change, key="beta", name=HURDLE):
    return lambda pack: changed(pack, name, lambda content: content.update({key: change(content[key])}))


def on_mcc(change, name=HURDLE):
    return lambda pack: changed(pack, name, lambda content: content["dicts"].update(mcc=change(content["dicts"]["mcc"])))


def with_text(name: str, change):
    return lambda pack: {name: change(canonical_json(document(pack, name))).encode()}


def huge(pack):
    """Coefficients that are finite one by one and overflow in their sum."""
    return changed(pack, HURDLE, lambda content: content.update(beta=[8.0e307] * len(content["beta"])))


PARAMETERS = {
    "E_YAML_ROOT": lambda pack: {HURDLE: b"[1, 2]\n"},
    "E_YAML_PARSE": with_text(HURDLE, lambda text: text[:-1] + ',"semver":"2.0.0"}'),
    "E_YAML_PARSE eligibility": with_text(ELIGIBILITY, lambda text: "a: &x 1\nb: *x\n"),
    "E_YAML_PARSE mark": with_text(DISPERSION, lambda text: "\ufeff" + text),
    "E_DSGN_SCHEMA": with_key(HURDLE, colour="red"),
    "E_DSGN_SCHEMA text": on_beta(lambda beta: ["1.0", *beta[1:]]),
    "E_DSGN_SCHEMA dispersion": with_key(DISPERSION, s2_max_attempts=0),
    "E_DSGN_NONFINITE": with_text(HURDLE, lambda text: text.replace('"beta":[', '"beta":[.nan,', 1)),
    "E_DSGN_NONFINITE slope": with_text(DISPERSION, lambda text: text.replace('"beta_phi":[', '"beta_phi":[-.inf,', 1)),
    "E_DSGN_DUP_MCC": on_mcc(lambda codes: [codes[1], *codes[1:]]),
    "E_DSGN_DICT_MISMATCH": on_mcc(lambda codes: [codes[1], codes[0], *codes[2:]], DISPERSION),
    "E_DSGN_SHAPE_MISMATCH": on_beta(lambda beta: beta[:-1]),
    "E_DSGN_SHAPE_MISMATCH mu": on_beta(lambda beta: [*beta, 0.0], "beta_mu"),
    "E_DSGN_SHAPE_MISMATCH phi": on_beta(lambda beta: beta[:-1], "beta_phi", DISPERSION),
    "E_PI_NAN_OR_INF": huge,
}


@pytest.mark.parametrize("case", PARAMETERS)
def test_parameter_file_is_refused(world, tmp_path, case):
    refused_early(tmp_path, overlay_pack(world, PARAMETERS[case](world), tmp_path / "pack"), case.split(" ")[0])


def eligibility(**block):
    return lambda pack: changed(pack, ELIGIBILITY, lambda content: content["eligibility"].update(block))


def rule(**fields):
    return lambda pack: changed(pack, ELIGIBILITY, lambda content: content["eligibility"]["rules"][1].update(fields))


def same_id(pack):
    return rule(id=document(pack, ELIGIBILITY)["eligibility"]["rules"][0]["id"])(pack)


RULES = {
    "E_ELIG_SCHEMA": lambda pack: changed(pack, ELIGIBILITY, lambda content: content.pop("eligibility") and None),
    "E_ELIG_SCHEMA key": eligibility(extra=1),
    "E_ELIG_RULESET_ID_EMPTY": eligibility(rule_set_id=""),
    "E_ELIG_DEFAULT_INVALID": eligibility(default_decision="maybe"),
    "E_ELIG_RULE_BAD_ID": rule(id="default_allow"),
    "E_ELIG_RULE_DUP_ID": same_id,
    "E_ELIG_RULE_BAD_PRIORITY": rule(priority=True),
    "E_ELIG_RULE_BAD_DECISION": rule(decision="perhaps"),
    "E_ELIG_RULE_BAD_MCC": rule(mcc=[5411]),
    "E_ELIG_RULE_BAD_CHANNEL": rule(channel=["card_present"]),
    "E_ELIG_RULE_BAD_ISO": rule(iso=["gb"]),
}


@pytest.mark.parametrize("case", RULES)
def test_rule_is_refused(world, tmp_path, case):
    refused_early(tmp_path, overlay_pack(world, RULES[case](world), tmp_path / "pack"), case.split(" ")[0])


# ---- the numeric environment ----------------------------------------------------------------------------------------


def wrong_case(pack):
    """A profile that is well formed and expects one bit too many of one function."""
    profile = document(pack, "math_profile_manifest.json")
    value = float.fromhex(profile["regression"][0]["value"])
    profile["regression"][0]["value"] = math.nextafter(value, math.inf).hex()
    return {"math_profile_manifest.json": canonical_json(profile | {"checksum": profile_checksum(profile)}).encode()}


GOVERNANCE = {
    "E_NUMERIC_POLICY_VALUE": with_key("numeric_policy.json", fma_allowed=True),
    "E_NUMERIC_POLICY_VALUE json": lambda pack: {"numeric_policy.json": b"{"},
    "E_MATH_PROFILE_VALUE": with_key("math_profile_manifest.json", vendor="somebody"),
    "E_MATH_PROFILE_VALUE checksum": with_key("math_profile_manifest.json", version="other"),
    "E_NUM_LIBM_PROFILE": wrong_case,
}


@pytest.mark.parametrize("case", GOVERNANCE)
def test_governance_file_is_refused(world, tmp_path, case):
    refused_early(tmp_path, overlay_pack(world, GOVERNANCE[case](world), tmp_path / "pack"), case.split(" ")[0])


def flushing(a, b):
    return 0.0 if abs(a * b) < 2.0**-1022 else a * b


MACHINES = {
    "E_NUM_RNDMODE": (0, lambda a, b: math.nextafter(a + b, math.inf)),
    "E_NUM_FTZ_ON": (1, flushing),
    "E_NUM_FMA_ON": (2, lambda a, b, c: 2.0**-54),
}


@pytest.mark.parametrize("code", MACHINES)
def test_machine_is_refused(world, tmp_path, monkeypatch, code):
    place, operation = MACHINES[code]
    operations = list(numerics._ARITHMETIC["python"])
    operations[place] = operation
    monkeypatch.setitem(numerics._ARITHMETIC, "python", tuple(operations))
    assert refused_early(tmp_path, world, code)["failure_class"] == "F7"


@pytest.mark.parametrize(("name", "broken", "code"), [("neumaier_sum_c", lambda xs: (sum(xs), 0.0), "E_NUM_ULP_MISMATCH"), ("total_order_key", lambda x: 0, "E_NUM_TOTORDER_NAN")])
def test_wrong_kernel_is_refused(world, tmp_path, monkeypatch, name, broken, code):
    monkeypatch.setattr(numerics, name, broken)
    refused_early(tmp_path, world, code)


# ---- the pack and the identities ------------------------------------------------------------------------------------


def one_more_byte(pack):
    path = pack_file(pack, "policy.s4.hyperparams.yaml")
    path.write_bytes(path.read_bytes() + b"\n")


PACKS = {
    "E_PACK_DIGEST": one_more_byte,
    "E_PACK_FILE_SET": lambda pack: (pack / "notes.txt").write_text("x"),
    "E_PACK_MANIFEST": lambda pack: (pack / "pack_manifest.json").unlink(),
    "E_PACK_PATH": lambda pack: (pack / "link").symlink_to("pack_manifest.json"),
}


@pytest.mark.parametrize("code", PACKS)
def test_pack_is_refused(world, tmp_path, code):
    shutil.copytree(world, tmp_path / "pack")
    PACKS[code](tmp_path / "pack")
    with pytest.raises(StagingError):
        run_s0(request_file(tmp_path / "again", tmp_path / "pack"))
    refused_early(tmp_path / "run", tmp_path / "pack", code)


@pytest.mark.parametrize("name", ["expect_parameter_hash", "expect_manifest_fingerprint"])
def test_expected_hash_is_compared_before_anything_is_written(world, tmp_path, name):
    record = refused(tmp_path / "no", world, "E_LINEAGE_EXPECTED_MISMATCH", **{name: "0" * 64})
    observed = record["detail"]["observed"]
    assert not list(tmp_path.rglob("parameter_scoped")) and not list(tmp_path.rglob("run_root.json")) and record["detail"]["expected"] == "0" * 64
    assert getattr(run_of(tmp_path / "yes", world, **{name: observed.upper()}).lineage, name.removeprefix("expect_")) == observed


def test_expectation_of_the_pack(world, tmp_path):
    shutil.copytree(world, tmp_path / "pack")
    text = (world / "pack_manifest.json").read_text()
    assert read_manifest(world).parameter_hash is None and '"parameter_hash":null' in text
    (tmp_path / "pack" / "pack_manifest.json").write_text(text.replace('"parameter_hash":null', f'"parameter_hash":"{"1" * 64}"'))
    assert refused(tmp_path / "run", tmp_path / "pack", "E_LINEAGE_EXPECTED_MISMATCH")["detail"]["expected"] == "1" * 64


@pytest.mark.parametrize(("field", "values", "code"), [("seed", (-1, 1 << 64, 7.0, True, "7"), "E_SEED_RANGE"), ("git_commit", ("", "xyz", "ab" * 19, None), "E_GIT_BYTES")])
def test_request_out_of_domain_is_refused_before_anything_is_read(world, tmp_path, field, values, code):
    for value in values:
        with pytest.raises(Seg1aError) as caught:
            run_s0(request_file(tmp_path, world, **{field: value}))
        assert caught.value.code == code
        assert not list(tmp_path.rglob("run_root.json")) and not list(tmp_path.rglob("parameter_scoped"))


def test_run_id_collisions_are_exhausted(world, tmp_path, monkeypatch):
    monkeypatch.setattr(lineage, "RUN_ID_CANDIDATES", 3)
    folder, first = tmp_path / "taken", run_of(tmp_path / "taken", world)
    for ns in range(START + 1, START + 3):
        taken = first.root.parent / f"run_id={run_id(first.lineage.manifest_fingerprint, 7, ns)}"
        taken.mkdir()
        (taken / "run_root.json").write_text("{}\n")  # a folder without it is what a killed claim left, and is set aside
    with pytest.raises(Seg1aError) as caught:
        run_s0(request_file(folder, world))
    assert caught.value.code == "E_RUNID_COLLISION_EXHAUSTED"
    assert (first.state_bundle(0) / "_passed.flag").exists(), "the run that was there is untouched"


def test_output_folder_that_cannot_be_made(world, tmp_path):
    (tmp_path / "out").write_text("a file stands here")
    with pytest.raises(Seg1aError) as caught:
        run_s0(request_file(tmp_path, world))
    assert caught.value.code == "E_WRITE_FAIL" and (tmp_path / "out").read_text() == "a file stands here"


# ---- after the root was claimed -------------------------------------------------------------------------------------


def test_wrong_table_is_published_as_evidence_without_flag(world, tmp_path, monkeypatch):
    columns_of = s0_foundations.FoundationTables.columns_of

    def one_bit_wrong(tables, part):
        columns = columns_of(tables, part)
        columns.eligible[5] = not columns.eligible[5]
        return columns

    monkeypatch.setattr(s0_foundations.FoundationTables, "columns_of", one_bit_wrong)
    record = refused(tmp_path, world, "E_VALIDATION_MISMATCH")
    root = claimed_root(tmp_path)
    (summary,) = root.glob("validation/parameter_hash=*/validation_summary.json")
    written = json.loads(summary.read_bytes())
    assert written["passed"] is False and [check["id"] for check in written["checks"] if not check["ok"]] == ["V6"]
    assert record["detail"]["check"] == "V6" and record["detail"]["row"] == 5 and record["merchant_id"] == record["detail"]["merchant_id"]
    assert json.loads((root / "run_root.json").read_bytes())["manifest_fingerprint"] == record["manifest_fingerprint"] != "0" * 64


def test_table_that_cannot_be_written_leaves_no_torn_file(world, tmp_path, monkeypatch):
    def full_disk(run, part):
        raise Seg1aError("E_WRITE_FAIL", "no space left on device", path="x", errno=28)

    monkeypatch.setattr(s0_foundations, "_design_table", full_disk)
    refused(tmp_path, world, "E_WRITE_FAIL")
    assert not list(claimed_root(tmp_path).rglob("*.parquet")) and not list(claimed_root(tmp_path).rglob("MANIFEST.json"))


def test_first_failure_is_never_overwritten(world, tmp_path):
    broken = overlay_pack(world, TABLES["E_FK_HOME_ISO"](world), tmp_path / "one")
    other = overlay_pack(world, TABLES["E_GDP_DUP"](world), tmp_path / "two")
    refused_early(tmp_path / "run", broken, "E_FK_HOME_ISO")
    with pytest.raises(Seg1aError) as caught:
        run_s0(request_file(tmp_path / "run", other))
    assert caught.value.code == "E_GDP_DUP"
    (record,) = (tmp_path / "run").rglob("failure.json")
    assert json.loads(record.read_bytes())["error_code"] == "E_FK_HOME_ISO"
