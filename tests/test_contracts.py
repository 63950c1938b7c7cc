"""The contracts against the tables of the specification: ids, paths, columns, budgets, gates."""
import copy
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from seg1a.core import encoding
from seg1a.core.contracts import DICTIONARY, DOCUMENTS, REGISTRY, Contracts, contracts, contracts_path
from seg1a.core.encoding import read_yaml
from seg1a.core.errors import Seg1aError

VECTORS = Path(__file__).parent / "vectors"
TOKENS = {"seed": 7, "parameter_hash": "ab" * 32, "manifest_fingerprint": "cd" * 32, "run_id": "ef" * 16}
PH, FP, RID = TOKENS["parameter_hash"], TOKENS["manifest_fingerprint"], TOKENS["run_id"]
STREAM_KEYS = f"seed=7/parameter_hash={PH}/run_id={RID}"


def test_the_documents_lint_clean():
    assert contracts().lint() == []


@pytest.mark.parametrize("id, tokens, path", [
    ("crossborder_eligibility_flags", {}, f"parameter_scoped/parameter_hash={PH}/crossborder_eligibility_flags.parquet"),
    ("hurdle_design_matrix", {}, f"parameter_scoped/parameter_hash={PH}/hurdle_design_matrix.parquet"),
    ("hurdle_pi_probs", {}, f"parameter_scoped/parameter_hash={PH}/hurdle_pi_probs.parquet"),
    ("merchant_abort_log", {}, f"parameter_scoped/parameter_hash={PH}/merchant_abort_log.parquet"),
    ("s1_hurdle_catalogue", {}, f"parameter_scoped/parameter_hash={PH}/s1_hurdle_catalogue.json"),
    ("s2_nb_catalogue", {}, f"parameter_scoped/parameter_hash={PH}/s2_nb_catalogue.json"),
    ("s3_eligibility", {}, f"parameter_scoped/parameter_hash={PH}/s3_eligibility.parquet"),
    ("s3_candidate_set", {}, f"parameter_scoped/parameter_hash={PH}/s3_candidate_set.parquet"),
    ("s3_candidate_set_manifest", {}, f"parameter_scoped/parameter_hash={PH}/s3_candidate_set._manifest.json"),
    ("s3_base_weight_priors", {}, f"parameter_scoped/parameter_hash={PH}/s3_base_weight_priors.parquet"),
    ("s3_integerised_counts", {}, f"parameter_scoped/parameter_hash={PH}/s3_integerised_counts.parquet"),
    ("s3_site_sequence", {}, f"parameter_scoped/parameter_hash={PH}/s3_site_sequence.parquet"),
    ("rng_audit_log", {}, f"logs/rng/audit/{STREAM_KEYS}/rng_audit_log.jsonl"),
    ("rng_trace_log", {}, f"logs/rng/trace/{STREAM_KEYS}/rng_trace_log.jsonl"),
    ("rng_event_hurdle_bernoulli", {"state": 1, "shard": 0}, f"logs/rng/events/hurdle_bernoulli/{STREAM_KEYS}/part-s1-00000.jsonl"),
    ("rng_event_gamma_component", {"state": 2, "shard": 12}, f"logs/rng/events/gamma_component/{STREAM_KEYS}/part-s2-00012.jsonl"),
    ("rng_event_poisson_component", {"state": 4, "shard": 1}, f"logs/rng/events/poisson_component/{STREAM_KEYS}/part-s4-00001.jsonl"),
    ("rng_event_ztp_final", {"state": 4, "shard": 123456}, f"logs/rng/events/ztp_final/{STREAM_KEYS}/part-s4-123456.jsonl"),
    ("s0_validation_bundle", {}, f"validation/parameter_hash={PH}"),
    ("validation_work", {"state": 4}, f"validation/parameter_hash={PH}/run_id={RID}/s4"),
    ("validation_bundle_1A", {}, f"validation_bundle/manifest_fingerprint={FP}"),
    ("s3_crossborder_universe", {}, f"validation_bundle/manifest_fingerprint={FP}/s3_crossborder_universe"),
    ("failure_record", {}, f"validation/failures/manifest_fingerprint={FP}/seed=7/run_id={RID}/failure.json"),
    ("run_root", {}, "run_root.json"),
    ("run_summary", {}, "run_summary.json"),
    ("iso3166_canonical_2024", {}, "reference/iso/iso3166_canonical/2024-12-31/iso3166.parquet"),
    ("transaction_schema_merchant_ids", {"version": "2025-11-03"},
     "reference/layer1/transaction_schema_merchant_ids/2025-11-03/transaction_schema_merchant_ids.parquet"),
])
def test_paths_are_those_of_the_specification(id, tokens, path):
    assert contracts().path(id, **TOKENS, **tokens) == path


def test_every_run_path_is_identified_as_itself():
    for id, record in contracts().datasets().items():
        if record.root != "run":
            continue
        path = contracts().path(id, **TOKENS, state=2, shard=5)
        names = record.contents if record.format == "folder" else [None]
        for name in names:
            found = contracts().identify(path if name is None else f"{path}/{name}")
            # a file of a folder may also have an id of its own; both templates give the same path
            assert found is not None, (id, name)
            if name is None:
                assert found[0] in (id, "validation_work", "telemetry")


@pytest.mark.parametrize("path", ["", "x", "parameter_scoped/x.parquet", f"parameter_scoped/parameter_hash={PH}/hurdle_pi_probs.parquet/x",
                                  f"parameter_scoped/parameter_hash={PH.upper()}/hurdle_pi_probs.parquet",
                                  f"logs/rng/trace/seed=07/parameter_hash={PH}/run_id={RID}/rng_trace_log.jsonl",
                                  f"/parameter_scoped/parameter_hash={PH}/hurdle_pi_probs.parquet"])
def test_foreign_paths_are_not_identified(path):
    assert contracts().identify(path) is None


@pytest.mark.parametrize("tokens", [{"shard": -1}, {"state": 5}, {"seed": -1}, {"seed": "07"}, {"run_id": "EF" * 16}, {"parameter_hash": "ab"},
                                    {"parameter_hash": "../" + "a" * 61}, {"run_id": ""}])
def test_malformed_tokens_never_reach_a_path(tokens):
    with pytest.raises(Seg1aError) as caught:
        contracts().path("rng_event_nb_final", **{**TOKENS, "state": 2, "shard": 0, **tokens})
    assert caught.value.code == "E_DICTIONARY_PATH"


COLUMNS = {
    "crossborder_eligibility_flags": "parameter_hash string!, produced_by_fingerprint string, merchant_id int64!, is_eligible bool!, "
                                     "reason string!, rule_set string!",
    "hurdle_design_matrix": "parameter_hash string!, produced_by_fingerprint string, merchant_id int64!, mcc int32!, channel string!, "
                            "gdp_bucket_id int8!, intercept float!, mcc_index int32!, channel_index int8!, gdp_pc_usd_2015 double!, "
                            "ln_gdp_pc double!",
    "hurdle_pi_probs": "parameter_hash string!, produced_by_fingerprint string, merchant_id int64!, logit float!, pi float!",
    "s3_candidate_set": "merchant_id int64!, country_iso string!, candidate_rank int32!, is_home bool!, reason_codes list!, "
                        "filter_tags list!, parameter_hash string!, produced_by_fingerprint string",
    "s3_base_weight_priors": "merchant_id int64!, country_iso string!, base_weight_dp string!, dp int32!, parameter_hash string!, "
                             "produced_by_fingerprint string",
    "s3_integerised_counts": "merchant_id int64!, country_iso string!, count int32!, residual_rank int32!, parameter_hash string!, "
                             "produced_by_fingerprint string",
    "s3_site_sequence": "merchant_id int64!, country_iso string!, site_order int32!, site_id string, parameter_hash string!, "
                        "produced_by_fingerprint string",
    "s3_eligibility": "merchant_id int64!, eligible_crossborder bool!, decision_rule_id string!, reason_code string!, "
                      "merchant_tags list!, fired_rules list!, parameter_hash string!, produced_by_fingerprint string",
    "transaction_schema_merchant_ids": "merchant_id int64!, mcc int32!, channel string!, home_country_iso string!",
    "gdp_bucket_map_2024": "country_iso string!, bucket_id int32!, bucket_label string, method string!, k int32!, source_year int16!",
    "world_bank_gdp_per_capita_20250415": "country_iso string!, observation_year int16!, gdp_pc_usd_2015 double!, source_series string!",
    "crossborder_features": "merchant_id int64!, feature_value double",
}


@pytest.mark.parametrize("id", COLUMNS)
def test_columns_types_and_nullability(id):
    def text(field):
        kind = "list" if pa.types.is_list(field.type) else str(field.type)
        return f"{field.name} {kind}{'' if field.nullable else '!'}"
    assert ", ".join(map(text, contracts().arrow_schema(id))) == COLUMNS[id]


def test_merchant_id_is_int64_in_every_table():
    for id, record in contracts().datasets().items():
        if record.format == "parquet" and "merchant_id" in contracts().arrow_schema(id).names:
            assert contracts().arrow_schema(id).field("merchant_id").type == pa.int64(), id


def test_streams_are_the_closed_vocabulary():
    found = {(s.id, s.dataset_id, s.module, s.label, s.context, s.state) for s in contracts().streams().values()}
    ztp = ("1A.ztp_sampler", "poisson_component", "ztp", 4)
    assert found == {
        ("hurdle_bernoulli", "rng_event_hurdle_bernoulli", "1A.hurdle_sampler", "hurdle_bernoulli", None, 1),
        ("gamma_component", "rng_event_gamma_component", "1A.nb_and_dirichlet_sampler", "gamma_nb", "nb", 2),
        ("poisson_component_nb", "rng_event_poisson_component", "1A.nb_poisson_component", "poisson_nb", "nb", 2),
        ("nb_final", "rng_event_nb_final", "1A.nb_sampler", "nb_final", None, 2),
        ("poisson_component_ztp", "rng_event_poisson_component", *ztp), ("ztp_rejection", "rng_event_ztp_rejection", *ztp),
        ("ztp_retry_exhausted", "rng_event_ztp_retry_exhausted", *ztp), ("ztp_final", "rng_event_ztp_final", *ztp)}


ENVELOPE = {"ts_utc": "2025-10-31T10:00:00.123456Z", "run_id": RID, "seed": 7, "parameter_hash": PH, "manifest_fingerprint": FP,
            **{f"rng_counter_{side}_{word}": 2**64 - 1 for side in ("before", "after") for word in ("hi", "lo")}}


def row_of(stream):
    "A valid row of a stream, made from its record."
    values = {"U64": 3, "F64": 0.5, "F64_OR_NULL": 0.5}
    row = {**ENVELOPE, "module": stream.module, "substream_label": stream.label, "blocks": 1, "draws": "1", **stream.constants}
    row |= {name: values[kind] if kind != "CHOICE" else stream.choices[name][-1] for name, kind in stream.columns.items()}
    return row if stream.context is None else {**row, "context": stream.context}


@pytest.mark.parametrize("id", list(contracts().streams()))
def test_a_row_built_from_its_stream_record_is_valid_and_closed(id):
    stream = contracts().streams()[id]
    valid = contracts().row_validator(stream.dataset_id).is_valid
    row = row_of(stream)
    assert valid(row)
    assert not valid({**row, "surplus": 1})
    optional = {name for name, choices in stream.choices.items() if None in choices}
    for key in row:
        rest = {k: v for k, v in row.items() if k != key}
        assert valid(rest) == (key in optional), key
    for key, value in row.items():
        if isinstance(value, int) and not isinstance(value, bool):
            assert not valid({**row, key: float(value)}), f"{key}: a float is no integer"
            assert not valid({**row, key: -1}), key
        assert not valid({**row, key: [value]}), key
    for draws in ("", "01", "-1", "1.0", "9" * 40, 1):
        assert not valid({**row, "draws": draws})
    for stamp in ("2025-10-31T10:00:00.12345Z", "2025-10-31 10:00:00.123456Z", "2025-10-31T10:00:00.123456+00:00"):
        assert not valid({**row, "ts_utc": stamp})


def test_vectors_log_rows_are_valid():
    rows = json.loads((VECTORS / "s0.json").read_text())["log_rows"]
    audit, trace = contracts().row_validator("rng_audit_log"), contracts().row_validator("rng_trace_log")
    assert audit.is_valid(json.loads(rows["audit"]))
    assert trace.is_valid(json.loads(rows["trace_1"])) and trace.is_valid(json.loads(rows["trace_2"]))
    envelope = contracts().validator("schemas.layer1.yaml#/$defs/rng_envelope")
    assert envelope.is_valid(json.loads(rows["envelope_consuming"])) and envelope.is_valid(json.loads(rows["envelope_non_consuming"]))


def test_vectors_events_of_s1_and_s2_are_valid():
    expected = json.loads((VECTORS / "s1_s2.json").read_text())["end_to_end"]
    for case in expected if isinstance(expected, list) else [expected]:
        for key, id in (("hurdle", "hurdle_bernoulli"), ("gamma", "gamma_component"), ("poisson", "poisson_component"), ("nb_final", "nb_final")):
            validator = contracts().row_validator(f"rng_event_{id}")
            for row in case["expected"][key]:
                assert validator.is_valid({"ts_utc": ENVELOPE["ts_utc"], **row}), row


def test_vectors_events_of_s4_are_valid():
    for run in json.loads((VECTORS / "s4.json").read_text())["runs"]:
        for family, rows in (run.get("files_without_ts_utc") or {}).items():
            validator = contracts().row_validator(f"rng_event_{family}")
            assert all(validator.is_valid({"ts_utc": ENVELOPE["ts_utc"], **row}) for row in rows or [])
        validator = contracts().row_validator("rng_trace_log")
        assert all(validator.is_valid({"ts_utc": ENVELOPE["ts_utc"], **row}) for row in run.get("trace_without_ts_utc") or [])


def test_registry_says_which_hash_a_file_enters():
    inside = {name for name, a in contracts().artefacts().items() if a.in_parameter_hash}
    assert inside == {"hurdle_coefficients.yaml", "nb_dispersion_coefficients.yaml", "crossborder_hyperparams.yaml",
                      "policy.s3.rule_ladder.yaml", "policy.s3.base_weight.yaml", "policy.s3.thresholds.yaml",
                      "policy.s3.bounds.yaml", "policy.s3.*.yaml", "policy.s4.hyperparams.yaml", "crossborder_features.parquet"}
    required = {name for name, a in contracts().artefacts().items() if a.required and a.source == "pack"}
    assert required == {"hurdle_coefficients.yaml", "nb_dispersion_coefficients.yaml", "crossborder_hyperparams.yaml",
                        "policy.s3.rule_ladder.yaml", "policy.s4.hyperparams.yaml", "validation_policy.yaml",
                        "transaction_schema_merchant_ids.parquet", "iso3166.parquet", "gdp.parquet", "gdp_bucket_map.parquet",
                        "numeric_policy.json", "math_profile_manifest.json"}
    assert {name for name, a in contracts().artefacts().items() if a.source == "package"} == set(DOCUMENTS)
    assert all(a.in_manifest for a in contracts().artefacts().values())


def test_artefact_names_are_the_basenames_of_their_paths():
    for name, artefact in contracts().artefacts().items():
        assert re.split(r"[/:]", artefact.path)[-1] == name


def test_row_schemas_hold_no_reference():
    for id, record in contracts().datasets().items():
        if record.schema_ref:
            assert "$ref" not in json.dumps(contracts().row_schema(id)), id


def test_changing_a_schema_that_was_handed_out_is_the_callers_own_affair():
    fresh = Contracts()
    assert fresh.row_schema("hurdle_pi_probs") == contracts().row_schema("hurdle_pi_probs")
    broken = copy.deepcopy(fresh.row_schema("hurdle_pi_probs"))
    broken["properties"].clear()
    assert contracts().row_schema("hurdle_pi_probs")["properties"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_are_ascii_and_ship_with_the_package(name):
    data = contracts_path(name).read_bytes()
    assert data == contracts().document(name) and data.isascii() and data.endswith(b"\n")


@pytest.mark.parametrize("name, old, new", [
    (DICTIONARY, "section: ingress\n", "section: ingress\n    colour: red\n"),
    (DICTIONARY, "    retention_days: 90\n", ""),
    (REGISTRY, "licence: internal}", "licence: internal, owner: me}"),
])
def test_unknown_and_missing_keys_of_a_record_are_refused(name, old, new):
    text = contracts().document(name).decode()
    found = Contracts({name: text.replace(old, new, 1).encode()}).lint()
    assert found and found[0].startswith("E_AUTHORITY_BREACH")


# ---- a schema is checked where it is written, and so is what it refers to

@pytest.mark.parametrize("document, old, new", [
    ("schemas.layer1.yaml", "hex64: {type: string", "hex64: {type: text"), ("schemas.layer1.yaml", "hex64: {type: string", "hex64: {type: string, minLength: few"),
    ("schemas.1A.yaml", "logit: {type: number}", "logit: {type: figure}"), ("schemas.1A.yaml", "token:", "token: {allOf: {}}\n  token_of_old:"),
])
def test_a_broken_definition_is_found_from_everywhere(document, old, new):
    text = contracts().document(document).decode()
    assert text.count(old) >= 1
    altered = Contracts({document: text.replace(old, new, 1).encode()})
    refs = {ref for record in altered.datasets().values() for ref in (record.schema_ref, *record.contents.values()) if ref}
    invalid = set()
    for ref in refs:
        try:
            Draft202012Validator.check_schema(altered.schema(ref))
        except SchemaError:
            invalid.add(ref)
    found = {finding.split(" is no valid schema")[0].rsplit(" ", 1)[-1] for finding in altered.lint() if "is no valid schema" in finding}
    assert invalid and found >= invalid and not (found & refs) - invalid


# ---- the parsed documents are cached

def test_a_cached_document_is_what_the_reader_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("SEG1A_CACHE_DIR", str(tmp_path))
    fresh = Contracts()
    assert [fresh.parsed(name) for name in DOCUMENTS] == [read_yaml(contracts_path(name).read_bytes(), name) for name in DOCUMENTS]
    assert len(list(tmp_path.rglob("*.json"))) == len(DOCUMENTS)
    monkeypatch.setattr(encoding, "read_yaml", lambda data, name: pytest.fail("parsed again"))
    again = Contracts()
    for name in DOCUMENTS:
        assert json.dumps(again.parsed(name)) == json.dumps(fresh.parsed(name)), "order and types too"


@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: data.replace(b"run_id", b"run_ie"), lambda data: b"", lambda data: b"\xff" + data])
def test_a_damaged_cache_is_not_believed(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("SEG1A_CACHE_DIR", str(tmp_path))
    right = Contracts().parsed(DICTIONARY)
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(damage(path.read_bytes()))
    assert Contracts().parsed(DICTIONARY) == right


def test_changed_bytes_have_another_place_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEG1A_CACHE_DIR", str(tmp_path))
    data = contracts().document(REGISTRY)
    first, second = (encoding.read_own_yaml(data.replace(b"licence: internal", licence), REGISTRY) for licence in (b"licence: internal", b"licence: external"))
    assert first != second and second["artefacts"] == read_yaml(data.replace(b"licence: internal", b"licence: external"), REGISTRY)["artefacts"]


def test_altered_documents_of_tests_never_reach_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEG1A_CACHE_DIR", str(tmp_path))
    Contracts({REGISTRY: contracts().document(REGISTRY)}).parsed(REGISTRY)
    assert not list(tmp_path.rglob("*"))
