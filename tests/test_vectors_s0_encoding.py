"""Known answers of an independent model: encodings, lineage, root keys, timestamps, canonical texts. Every case is read from the files."""
import hashlib
import json
import struct
from pathlib import Path

import pytest

from seg1a.core.encoding import canonical_json, canonical_line, read_json, ser, uer, utc_text
from seg1a.core.lineage import (FileDigest, git_bytes, manifest_fingerprint, master_material, merchant_u64, parameter_hash, root_key_counter, run_id,
                                free_run_id)
from seg1a.core.run import unsealed_lineage

VECTORS = Path(__file__).parent / "vectors"
S0, S1_S2 = (json.loads((VECTORS / name).read_text("utf-8")) for name in ("s0.json", "s1_s2.json"))


def integer(value):
    "A u64 of the files: `0x` text or a plain number."
    return int(value, 16) if isinstance(value, str) else value


def digests(texts):
    return [FileDigest(name, Path(name), len(text.encode()), hashlib.sha256(text.encode()).hexdigest()) for name, text in texts.items()]


@pytest.mark.parametrize("case", S0["uer"], ids=lambda case: repr(case["text"]))
def test_uer(case):
    assert uer(case["text"]).hex() == case["bytes"]


@pytest.mark.parametrize("case", S0["ser"], ids=lambda case: case["bytes"])
def test_ser(case):
    assert ser([(tag, value) for tag, value in case["ids"]]).hex() == case["bytes"]


def test_merchant_u64():
    for case in S0["merchant_u64"]:
        assert merchant_u64(case["merchant_id"]) == integer(case["u64"])
    for case in S1_S2["merchant_u64"]:
        assert merchant_u64(case["merchant_id"]) == integer(case["merchant_u64"])


@pytest.mark.parametrize("case", S0["master"], ids=lambda case: case["seed"])
def test_master(case):
    master = master_material(case["parameter_hash"], integer(case["seed"]))
    assert master.hex() == case["M"]
    assert root_key_counter(master) == (integer(case["root_key"]), integer(case["root_ctr_hi"]), integer(case["root_ctr_lo"]))


@pytest.mark.parametrize("case", S1_S2["master"], ids=lambda case: str(case["seed"]))
def test_master_of_s1(case):
    master = master_material(case["parameter_hash"], integer(case["seed"]))
    assert master.hex() == case["master"]
    assert root_key_counter(master) == (integer(case["root_key"]), integer(case["root_ctr_hi"]), integer(case["root_ctr_lo"]))


def test_lineage_hashes():
    case = S0["lineage"]
    parameters = digests(case["param_files"])
    artefacts = parameters + digests(case["other_artefacts"])
    assert sorted(case["param_files"]) == case["param_order"]
    assert sorted({**case["param_files"], **case["other_artefacts"]}) == case["artefact_order"]
    assert parameter_hash(reversed(parameters)) == case["parameter_hash"]
    assert git_bytes(case["git_commit"]).hex() == case["git_32"]
    assert manifest_fingerprint(artefacts, git_bytes(case["git_commit"]), case["parameter_hash"]) == case["manifest_fingerprint"]


def test_parameter_hash_of_one_file():
    case = S0["lineage"]
    one = {parameter_hash([digest]) for digest in digests(case["param_files"])}
    assert case["parameter_hash_one_file"] in one


def test_run_ids():
    case = S0["lineage"]
    fingerprint, seed, t_ns = case["manifest_fingerprint"], case["seed"], case["t_ns"]
    assert run_id(fingerprint, seed, t_ns) == case["run_id"]
    assert free_run_id(fingerprint, seed, t_ns, lambda candidate: False) == (case["run_id"], t_ns)
    assert free_run_id(fingerprint, seed, t_ns, {case["run_id"]}.__contains__) == (case["run_id_after_collision"], case["t_ns_after_collision"])
    assert unsealed_lineage(seed, t_ns).run_id == case["pre_seal_run_id"]


@pytest.mark.parametrize("case", S0["ts"], ids=lambda case: case["ts_utc"])
def test_timestamps(case):
    assert utc_text(case["unix_ns"]) == case["ts_utc"]


@pytest.mark.parametrize("name", [name for name in S0["log_rows"] if S0["log_rows"][name].startswith("{")])
def test_log_rows_are_canonical(name):
    text = S0["log_rows"][name]
    row = read_json(text.encode(), name)
    assert canonical_json(row) == text and canonical_line(row) == text.encode() + b"\n"
    assert all(isinstance(value, int) for key, value in row.items() if key.startswith("rng_") or key.endswith("_total"))


def test_log_rows_carry_this_lineage():
    case, rows = S0["lineage"], {name: json.loads(text) for name, text in S0["log_rows"].items() if text.startswith("{")}
    key, hi, lo = root_key_counter(master_material(case["parameter_hash"], case["seed"]))
    audit = rows["audit"]
    assert (audit["rng_key_lo"], audit["rng_key_hi"], audit["rng_counter_hi"], audit["rng_counter_lo"]) == (key, 0, hi, lo)
    for row in rows.values():
        assert row["run_id"] == case["run_id"] and row["seed"] == case["seed"] and row["ts_utc"] == utc_text(case["t_ns"])


def test_attest_text_is_canonical():
    text = S0["attest"]["file_text"].encode()
    assert canonical_line(read_json(text, "attest")) == text and hashlib.sha256(text).hexdigest() == S0["attest"]["file_sha256"]


def test_floats_have_the_shortest_text():
    for name, value in S0["log_rows"].items():
        if not value.startswith("{"):
            x = float.fromhex(value)
            assert struct.pack("<d", read_json(canonical_line([x]), name)[0]) == struct.pack("<d", x)
