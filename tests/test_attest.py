"""Signatures and attestations of a real run, checked by other means than those that made them, and under attack."""

import base64
import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from seg1a.core.encoding import canonical_json, canonical_line
from seg1a.core.errors import NotPassed, Seg1aError
from seg1a.core.gates import verify_bundle
from seg1a.core.run import Options
from seg1a.inputs.manifest import verify_pack
from seg1a.operations.attest import (ATTESTATIONS, ORIGIN_TYPE, VERDICT_TYPE, RunFiles, local_files, promotion_extras, replay_statement,
                                     statements_of_pack, statements_of_run, verify_pack_signature, verify_run_signature)
from seg1a.operations.envelope import sign, statement_of, verify_envelope, write_key_pair
from seg1a.operations.pipeline import RunRequest, run_pipeline

START, WHEN, SEED = 1_700_000_000_000_000_000, 1_704_067_200_123_456_789, (1 << 63) + 7


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("attest")


@pytest.fixture(scope="module")
def keys(home) -> dict[str, Path]:
    names = {name: home / name for name in ("key", "pub", "stranger", "stranger_pub")}
    write_key_pair(names["key"], names["pub"])
    write_key_pair(names["stranger"], names["stranger_pub"])
    return names


@pytest.fixture(scope="module")
def run_root(small_pack, home) -> Path:
    summary = run_pipeline(RunRequest(small_pack, home / "runs", SEED, "c" * 40, START, Options(notebooks=False)))
    assert summary["gate"]["status"] == "PASS"
    return Path(summary["output_dir"])


@pytest.fixture(scope="module")
def promoted(run_root, keys, home) -> Path:
    """The run with what promotion puts beside it."""
    place = home / "promoted"
    shutil.copytree(run_root, place)
    extras = promotion_extras(run_root, keys["key"], WHEN)
    for name, content in extras.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(content)
    return place


@pytest.fixture(scope="module")
def files(promoted) -> RunFiles:
    return local_files(promoted)


def refused(*arguments, **named) -> str:
    """The code with which `verify_run_signature` refuses."""
    with pytest.raises(NotPassed) as caught:
        verify_run_signature(*arguments, **named)
    return caught.value.code


def signed_by_hand(payload: bytes, key: Path, kind: str = "application/vnd.in-toto+json") -> bytes:
    """A DSSE envelope made without the module under test."""
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    signature = private.sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload))
    encoded = [base64.b64encode(part).decode() for part in (payload, signature)]
    return json.dumps({"payload": encoded[0], "payloadType": kind, "signatures": [{"keyid": "", "sig": encoded[1]}]}).encode()


# ---------------------------------------------------------------- what is signed


def test_an_independent_verifier_agrees(promoted, keys):
    public = serialization.load_pem_public_key(keys["pub"].read_bytes())
    for kind, place in ATTESTATIONS.items():
        envelope = json.loads((promoted / place).read_bytes())
        payload, signature = (base64.b64decode(text, validate=True) for text in (envelope["payload"], envelope["signatures"][0]["sig"]))
        public.verify(signature, b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload)
        with pytest.raises(InvalidSignature):
            public.verify(signature, b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload[:-1] + b" ")
        statement = json.loads(payload)
        assert statement["_type"] == "https://in-toto.io/Statement/v1" and statement["predicateType"] == {"verdict": VERDICT_TYPE, "origin": ORIGIN_TYPE}[kind]
        (index,) = promoted.glob("validation_bundle/*/index.json")
        digest = subprocess.run(["sha256sum", index], capture_output=True, text=True, check=True).stdout.split()[0]
        assert statement["subject"] == [{"name": index.relative_to(promoted).as_posix(), "digest": {"sha256": digest}}]


def test_the_verdict_names_states_policy_and_time(run_root, small_pack):
    verdict = statements_of_run(run_root, WHEN)["verdict"]["predicate"]
    policy = verify_pack(small_pack).artefact("validation_policy.yaml")
    assert verdict["properties"] == [f"SEG1A_S{n}_VALIDATED" for n in range(5)] + ["SEG1A_RUN_PASSED"]
    assert verdict["verifier"]["policies"] == [{"name": "validation_policy.yaml", "digest": {"sha256": policy.sha256}}]
    assert verdict["timeCreated"] == "2024-01-01T00:00:00.123456Z" and set(verdict) == {"verifier", "timeCreated", "properties"}


def test_the_origin_is_enough_to_run_again(run_root, small_pack):
    origin = statements_of_run(run_root, WHEN)["origin"]["predicate"]
    external = origin["buildDefinition"]["externalParameters"]
    assert (external["seed"], external["start_time_ns"], external["pack_version"]) == (str(SEED), str(START), "test")
    assert external["git_commit"] == "c" * 40 and external["validate"] == [True] * 5
    pinned = {entry["name"]: entry["digest"]["sha256"] for entry in origin["buildDefinition"]["resolvedDependencies"]}
    manifest = verify_pack(small_pack)
    assert {a.path: a.sha256 for a in manifest.artefacts if a.in_manifest}.items() <= pinned.items() and pinned["pack_manifest.json"] == manifest.sha256
    assert {name for name in pinned if name.startswith("package:")} and not {name for name in pinned if name.startswith("generated:")}
    assert origin["runDetails"]["metadata"]["startedOn"] == "2023-11-14T22:13:20.000000Z"
    assert "slsa" not in json.dumps(origin).lower()  # no level is claimed


def test_nothing_that_is_signed_knows_the_machine(promoted, home):
    for name in (*ATTESTATIONS.values(), "openlineage.ndjson"):
        data = (promoted / name).read_bytes()
        text = data if name.endswith("ndjson") else base64.b64decode(json.loads(data)["payload"])
        assert str(home).encode() not in text and b"/tmp" not in text


def test_the_same_promotion_has_the_same_bytes(run_root, keys):
    once = promotion_extras(run_root, keys["key"], WHEN)
    assert once == promotion_extras(run_root, keys["key"], WHEN, verify_bundle(run_root))
    later = promotion_extras(run_root, keys["key"], WHEN + 10**9)
    assert later["openlineage.ndjson"] == once["openlineage.ndjson"] and later[ATTESTATIONS["origin"]] == once[ATTESTATIONS["origin"]]
    assert later[ATTESTATIONS["verdict"]] != once[ATTESTATIONS["verdict"]]
    assert list(promotion_extras(run_root, None, WHEN)) == ["openlineage.ndjson"]


# ---------------------------------------------------------------- who signed


def test_statements_come_back(promoted, files, keys):
    expected = statements_of_run(promoted, WHEN, dataclasses.replace(verify_bundle(promoted), problems=()))
    assert verify_run_signature(promoted, keys["pub"]) == verify_run_signature(files, keys["pub"]) == expected


def test_a_strangers_key(promoted, files, keys):
    assert refused(files, keys["stranger_pub"]) == "E_SIGNATURE_KEY"
    for kind in ATTESTATIONS:
        envelopes = {name: (promoted / place).read_bytes() for name, place in ATTESTATIONS.items()}
        envelopes[kind] = sign(verify_envelope(envelopes[kind], keys["pub"]), keys["stranger"])
        assert refused(files, keys["pub"], envelopes) == "E_SIGNATURE_KEY"


def test_one_good_signature_among_others_is_enough(promoted, keys):
    ours = json.loads((promoted / ATTESTATIONS["verdict"]).read_bytes())
    theirs = json.loads(sign(verify_envelope(canonical_line(ours), keys["pub"]), keys["stranger"]))
    both = ours | {"signatures": theirs["signatures"] + ours["signatures"]}
    assert verify_envelope(canonical_line(both), keys["pub"]) == verify_envelope(canonical_line(both), keys["stranger_pub"])


@pytest.mark.parametrize("kind", ATTESTATIONS)
@pytest.mark.parametrize("change, code", [
    (lambda e: e.update(signatures=[]), "E_SIGNATURE_MISSING"), (lambda e: e.pop("signatures"), "E_SIGNATURE_FORM"),
    (lambda e: e.update(signatures={}), "E_SIGNATURE_FORM"), (lambda e: e["signatures"][0].pop("sig"), "E_SIGNATURE_FORM"),
    (lambda e: e["signatures"][0].update(sig=""), "E_SIGNATURE_KEY"), (lambda e: e["signatures"][0].update(sig="!"), "E_SIGNATURE_FORM"),
    (lambda e: e["signatures"][0].update(sig=base64.b64encode(b"x" * 64).decode()), "E_SIGNATURE_KEY"),
    (lambda e: e.update(payloadType="application/json"), "E_SIGNATURE_TYPE"), (lambda e: e.update(payloadType=7), "E_SIGNATURE_FORM"),
    (lambda e: e.update(payload=7), "E_SIGNATURE_FORM"), (lambda e: e.pop("payload"), "E_SIGNATURE_FORM"),
    (lambda e: e.update(payload=base64.b64encode(base64.b64decode(e["payload"]).replace(b"seg1a", b"seg1b", 1)).decode()), "E_SIGNATURE_KEY"),
])
def test_tampered_envelopes(promoted, files, keys, kind, change, code):
    envelopes = {name: (promoted / place).read_bytes() for name, place in ATTESTATIONS.items()}
    envelope = json.loads(envelopes[kind])
    before = json.dumps(envelope)
    change(envelope)
    assert json.dumps(envelope) != before
    assert refused(files, keys["pub"], envelopes | {kind: canonical_line(envelope)}) == code


def test_every_flipped_byte_of_an_envelope(promoted, keys):
    """A flip is refused, or it hit what nobody has signed (the key id, the spelling of base64) and changes no word."""
    data = (promoted / ATTESTATIONS["verdict"]).read_bytes()
    statement, harmless = verify_envelope(data, keys["pub"]), []
    for position in range(len(data)):
        changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1:]
        try:
            assert verify_envelope(changed, keys["pub"]) == statement
            harmless.append(position)
        except NotPassed as error:
            assert error.code.startswith(("E_SIGNATURE_", "E_STATEMENT_"))
    keyid = data.index(b'"keyid"')
    assert all(keyid <= position < keyid + 80 or chr(data[position]) in "=" or data[position + 1:position + 2] in b'="' or position == len(data) - 1 for position in harmless)


@given(st.binary(max_size=200))
def test_noise_is_no_envelope(keys, data):
    with pytest.raises(NotPassed) as caught:
        verify_envelope(data, keys["pub"])
    assert caught.value.code == "E_SIGNATURE_FORM"


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["_type", "subject", "predicateType", "predicate", "name", "digest", "sha256", "payload", "payloadType", "signatures", "sig"]), inner, max_size=5), max_leaves=12)


@given(JSON)
def test_any_json_is_refused_with_a_code(keys, value):
    for data in (canonical_line(value), signed_by_hand(canonical_line(value), keys["key"])):
        with pytest.raises(NotPassed) as caught:
            verify_envelope(data, keys["pub"])
        assert caught.value.code.startswith(("E_SIGNATURE_", "E_STATEMENT_"))


# ---------------------------------------------------------------- what it is about


def test_subjects(promoted, files, keys):
    verdict = verify_envelope((promoted / ATTESTATIONS["verdict"]).read_bytes(), keys["pub"])
    envelopes = {kind: (promoted / place).read_bytes() for kind, place in ATTESTATIONS.items()}
    (subject,) = verdict["subject"]
    other = {"name": "other", "digest": {"sha256": "0" * 64}}
    for subjects in ([], [other], [subject, other], [other, subject], [subject, subject], [subject | {"uri": "x"}], [{"digest": subject["digest"]}],
                     [subject | {"digest": subject["digest"] | {"sha512": "0" * 128}}], [subject | {"digest": {"sha1": "0" * 40}}], ["x"]):
        signed = signed_by_hand(canonical_json(verdict | {"subject": subjects}).encode(), keys["key"])
        assert refused(files, keys["pub"], envelopes | {"verdict": signed}) == "E_STATEMENT_SUBJECT"


@pytest.mark.parametrize("change", [
    lambda s: s["predicate"].update(properties=s["predicate"]["properties"] + ["SLSA_BUILD_LEVEL_3"]), lambda s: s["predicate"].update(properties=[]),
    lambda s: s["predicate"]["verifier"].update(policies=[]), lambda s: s["predicate"].update(timeCreated="yesterday"), lambda s: s["predicate"].update(timeCreated=None),
    lambda s: s["predicate"].pop("timeCreated"), lambda s: s["predicate"].update(more=1), lambda s: s.update(predicateType=ORIGIN_TYPE),
    lambda s: s["subject"][0].update(name="another name"), lambda s: s.update(predicate={}),
])
def test_a_signed_statement_that_says_something_else(promoted, files, keys, change):
    statement = verify_envelope((promoted / ATTESTATIONS["verdict"]).read_bytes(), keys["pub"])
    change(statement)
    envelopes = {"verdict": sign(statement, keys["key"]), "origin": (promoted / ATTESTATIONS["origin"]).read_bytes()}
    assert refused(files, keys["pub"], envelopes) == "E_STATEMENT_PREDICATE"


def test_attestations_do_not_change_places(promoted, files, keys):
    verdict, origin = ((promoted / ATTESTATIONS[kind]).read_bytes() for kind in ("verdict", "origin"))
    assert refused(files, keys["pub"], {"verdict": origin, "origin": verdict}) == "E_STATEMENT_PREDICATE"
    assert refused(files, keys["pub"], {"verdict": verdict, "origin": verdict}) == "E_STATEMENT_PREDICATE"
    replay = sign(replay_statement(promoted, WHEN), keys["key"])
    assert refused(files, keys["pub"], {"verdict": replay, "origin": origin}) == "E_STATEMENT_PREDICATE"
    assert refused(files, keys["pub"], {"replay": verdict}, kinds=("replay",)) == "E_STATEMENT_PREDICATE"


def test_another_signed_statement_type_is_no_in_toto_statement(files, promoted, keys):
    verdict = verify_envelope((promoted / ATTESTATIONS["verdict"]).read_bytes(), keys["pub"])
    envelopes = {kind: (promoted / place).read_bytes() for kind, place in ATTESTATIONS.items()}
    payload = canonical_json(verdict).encode()
    assert refused(files, keys["pub"], envelopes | {"verdict": signed_by_hand(payload, keys["key"], "text/plain")}) == "E_SIGNATURE_TYPE"
    old = canonical_json(verdict | {"_type": "https://in-toto.io/Statement/v0.1"}).encode()
    assert refused(files, keys["pub"], envelopes | {"verdict": signed_by_hand(old, keys["key"])}) == "E_STATEMENT_FORM"
    assert refused(files, keys["pub"], envelopes | {"verdict": signed_by_hand(payload[:-1] + b',"_type":"x"}', keys["key"])}) == "E_STATEMENT_FORM"


def test_a_run_with_another_seed_is_not_covered(small_pack, promoted, keys, tmp_path):
    summary = run_pipeline(RunRequest(small_pack, tmp_path, SEED + 1, "c" * 40, START, Options(notebooks=False)))
    envelopes = {kind: (promoted / place).read_bytes() for kind, place in ATTESTATIONS.items()}
    assert refused(summary["output_dir"], keys["pub"], envelopes) == "E_STATEMENT_SUBJECT"


# ---------------------------------------------------------------- the closed tree

FREE = ("run_summary.json", "openlineage.ndjson", "logs/telemetry/")


def test_every_file_is_pinned_or_free(files, keys):
    """One changed digest and one missing file at a time, for every file of a promoted run."""
    for name, (sha256, size) in files.digests.items():
        free = name.startswith(FREE) or (name.startswith("validation_bundle/") and name.endswith("_passed.flag"))
        others = {key: value for key, value in files.digests.items() if key != name}
        for digests, code in ((others | {name: ("0" * 64, size)}, "E_CLOSURE_CHANGED"), (others | {name: (sha256, size + 1)}, "E_CLOSURE_CHANGED"), (others, "E_CLOSURE_MISSING")):
            changed = RunFiles(digests, files.read)
            if free:
                verify_run_signature(changed, keys["pub"])
            else:
                assert refused(changed, keys["pub"]) == ("E_SIGNATURE_MISSING" if name in ATTESTATIONS.values() and digests is others else code), name


def test_every_sealed_document_that_is_read_is_checked(files, keys):
    """A store that hands out other bytes than it has digests for does not get past the chain."""
    read: list[str] = []
    verify_run_signature(RunFiles(files.digests, lambda name: read.append(name) or files.read(name)), keys["pub"])
    for name in set(read) - set(ATTESTATIONS.values()):
        for data in (b"{}\n", files.read(name)[:-2] + b" \n", b"\xff"):
            lying = RunFiles(files.digests, lambda asked, name=name, data=data: data if asked == name else files.read(asked))
            assert refused(lying, keys["pub"]).startswith(("E_CLOSURE_", "E_STATEMENT_")), name


@pytest.mark.parametrize("name, code", [
    ("parameter_scoped/more.parquet", "E_CLOSURE_EXTRA"), ("logs/rng/events/more.jsonl", "E_CLOSURE_EXTRA"), ("logs/other.txt", "E_CLOSURE_EXTRA"), ("more.txt", "E_CLOSURE_EXTRA"),
    ("validation/more.json", "E_CLOSURE_EXTRA"), ("attestations/more.txt", "E_CLOSURE_EXTRA"), ("attestations/deep/more.dsse.json", "E_CLOSURE_EXTRA"),
    ("validation_bundle/manifest_fingerprint=" + "0" * 64 + "/index.json", "E_CLOSURE_EXTRA"), ("parameter_scoped/_passed.flag", "E_CLOSURE_EXTRA"),
    ("run_summary.json.bak", "E_CLOSURE_EXTRA"), ("attestations/replay-1.dsse.json", None), ("promotion_record.json", None), ("logs/telemetry/more", None),
])
def test_additional_files(files, keys, name, code):
    more = RunFiles(files.digests | {name: ("0" * 64, 1)}, files.read)
    if code is None:
        verify_run_signature(more, keys["pub"])
    else:
        assert refused(more, keys["pub"]) == code


def test_extra_flag_in_the_bundle_is_an_extra_file(files, keys):
    (folder,) = {name.rpartition("/")[0] for name in files.digests if name.endswith("/outputs_index.json")}
    for place in ("notebooks/deep", "notebooks", "validation_bundle_1A", "s5"):
        more = RunFiles(files.digests | {f"{folder}/{place}/_passed.flag": ("0" * 64, 1)}, files.read)
        assert refused(more, keys["pub"]) == "E_CLOSURE_EXTRA"


def test_bytes_on_disk(promoted, keys, tmp_path):
    """The same with real files: a flipped byte, a removed file, an added one, a symlink."""
    place = tmp_path / "copy"
    shutil.copytree(promoted, place)
    table = next(place.rglob("s3_candidate_set.parquet"))
    good = table.read_bytes()
    table.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    assert refused(place, keys["pub"]) == "E_CLOSURE_CHANGED"
    table.unlink()
    assert refused(place, keys["pub"]) == "E_CLOSURE_MISSING"
    table.write_bytes(good)
    (place / "parameter_scoped" / "more").write_bytes(b"")
    assert refused(place, keys["pub"]) == "E_CLOSURE_EXTRA"
    (place / "parameter_scoped" / "more").unlink()
    (place / "parameter_scoped" / "link").symlink_to(table)
    assert refused(place, keys["pub"]) == "E_GATE_MISMATCH"
    (place / "parameter_scoped" / "link").unlink()
    verify_run_signature(place, keys["pub"])
    shutil.rmtree(place / "attestations")
    assert refused(place, keys["pub"]) == "E_SIGNATURE_MISSING"


def test_a_sealed_document_that_no_seal_writes(promoted, keys, tmp_path):
    """Whoever holds the key can sign an index over nonsense; it is refused with a code."""
    from seg1a.core.flags import build_index

    place = tmp_path / "copy"
    shutil.copytree(promoted, place)
    (bundle,) = place.glob("validation_bundle/*")
    verdict = verify_envelope((place / ATTESTATIONS["verdict"]).read_bytes(), keys["pub"])
    for name in ("execution_stamp.json", "validation_summary.json"):
        for content in (b"{}\n", b"[]\n", b"7\n", b"{"):
            good = (bundle / name).read_bytes()
            (bundle / name).write_bytes(content)
            (bundle / "index.json").write_bytes(build_index(bundle))
            (subject,) = verdict["subject"]
            subject["digest"]["sha256"] = local_files(place).digests[f"{bundle.relative_to(place)}/index.json"][0]
            envelopes = {kind: sign(verdict | {"subject": [subject]}, keys["key"]) for kind in ATTESTATIONS}
            assert refused(place, keys["pub"], envelopes) in ("E_STATEMENT_PREDICATE", "E_CLOSURE_CHANGED")
            (bundle / name).write_bytes(good)


# ---------------------------------------------------------------- who may state


def test_no_statement_about_a_run_that_did_not_pass(run_root, small_pack, tmp_path, keys):
    summary = run_pipeline(RunRequest(small_pack, tmp_path, 1, "c" * 40, START, Options(notebooks=False, validate=(True, True, True, True, False))))
    withheld = Path(summary["output_dir"])
    assert summary["gate"]["status"] == "WITHHELD"
    for verdict in (None, verify_bundle(withheld), verify_bundle(run_root)):
        with pytest.raises(NotPassed):
            statements_of_run(withheld, WHEN, verdict)
    with pytest.raises(NotPassed):
        promotion_extras(withheld, keys["key"], WHEN)
    assert list(promotion_extras(withheld, None, WHEN)) == ["openlineage.ndjson"]


def test_a_verdict_of_another_time_is_not_taken(run_root, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(run_root, place)
    verdict = verify_bundle(place)
    next(place.glob("validation_bundle/*/_passed.flag")).unlink()
    with pytest.raises(NotPassed):
        statements_of_run(place, WHEN, verdict)


def test_replays(promoted, files, keys):
    statement = replay_statement(files, WHEN)
    assert statement == replay_statement(promoted, WHEN) and statement["predicate"]["verifier"]["policies"] == []
    signed = sign(statement, keys["stranger"])
    assert verify_run_signature(files, keys["stranger_pub"], {"replay": signed}, kinds=("replay",)) == {"replay": statement}
    assert refused(files, keys["stranger_pub"], {}, kinds=("replay",)) == "E_SIGNATURE_MISSING"


def test_packs(small_pack, keys, tmp_path):
    statements = statements_of_pack(small_pack, WHEN)
    signed = {kind: sign(statement, keys["key"]) for kind, statement in statements.items()}
    assert verify_pack_signature(small_pack, keys["pub"], signed) == statements
    (subject,) = statements["verdict"]["subject"]
    assert subject["digest"]["sha256"] == verify_pack(small_pack).sha256
    for envelopes, code in (({}, "E_SIGNATURE_MISSING"), ({"verdict": signed["verdict"]}, "E_SIGNATURE_MISSING"),
                            ({"verdict": signed["origin"], "origin": signed["origin"]}, "E_STATEMENT_PREDICATE"),
                            (signed | {"verdict": sign(statement_of("pack_manifest.json", "0" * 64, VERDICT_TYPE, {}), keys["key"])}, "E_STATEMENT_SUBJECT")):
        with pytest.raises(NotPassed) as caught:
            verify_pack_signature(small_pack, keys["pub"], envelopes)
        assert caught.value.code == code
    with pytest.raises(NotPassed):
        verify_pack_signature(small_pack, keys["stranger_pub"], signed)
    place = tmp_path / "pack"
    shutil.copytree(small_pack, place)
    (place / "config" / "more.yaml").write_text("a: 1\n")
    with pytest.raises(Seg1aError) as caught:
        verify_pack_signature(place, keys["pub"], signed)
    assert caught.value.code == "E_PACK_FILE_SET"


# ---------------------------------------------------------------- keys


def _pem(key, password: bytes | None = None) -> bytes:
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


UNUSABLE = {
    "empty": b"", "noise": os.urandom(200), "large": b"-" * 70_000, "encrypted": _pem(ed25519.Ed25519PrivateKey.generate(), b"secret"),
    "rsa": _pem(rsa.generate_private_key(65537, 2048)), "ec": _pem(ec.generate_private_key(ec.SECP256R1())), "torn": _pem(ed25519.Ed25519PrivateKey.generate())[:60],
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_keys_are_refused_without_a_byte_of_them(tmp_path, name):
    place = tmp_path / "key.pem"
    place.write_bytes(UNUSABLE[name])
    with pytest.raises(Seg1aError) as caught:
        sign(statement_of("x", "0" * 64, "https://example.invalid/x", {}), place)
    error = caught.value
    told = f"{error} {error.detail} {error.__cause__} {error.remedy}"
    body = b"".join(UNUSABLE[name].splitlines()[1:-1]).decode("ascii", "replace")
    assert error.code == "E_SIGN_KEY" and "BEGIN" not in told and not any(body[i:i + 12] in told for i in range(max(0, len(body) - 12)))


def test_a_traceback_shows_no_key(tmp_path, keys):
    program = f"from seg1a.operations.envelope import public_key\npublic_key({str(keys['key'])!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    body = keys["key"].read_text().splitlines()[1]
    assert done.returncode and "E_SIGN_KEY" in done.stderr and body not in done.stderr and body[:16] not in done.stderr


def test_a_new_private_key_is_its_owners_alone(tmp_path):
    before = os.umask(0)
    try:
        write_key_pair(tmp_path / "k.pem", tmp_path / "k.pub.pem")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "k.pem").stat().st_mode) == 0o600 and stat.S_IMODE((tmp_path / "k.pub.pem").stat().st_mode) == 0o644
    content = (tmp_path / "k.pem").read_bytes()
    with pytest.raises(Seg1aError):
        write_key_pair(tmp_path / "k.pem", tmp_path / "l.pub.pem")
    assert (tmp_path / "k.pem").read_bytes() == content and not (tmp_path / "l.pub.pem").exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
def test_keys_made_by_openssl(tmp_path):
    private, public = tmp_path / "seal.pem", tmp_path / "seal.pub.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    statement = statement_of("x", "0" * 64, "https://example.invalid/x", {"y": 1})
    assert verify_envelope(sign(statement, private), public) == statement


def test_without_the_extra(run_root, promoted, keys):
    """Everything but signing works without the libraries, and signing says what is missing."""
    program = f"""
import sys
sys.modules.update(dict.fromkeys(("securesystemslib", "cryptography")))
from seg1a.core.errors import Seg1aError
from seg1a.operations.attest import promotion_extras, statements_of_run, verify_run_signature
assert list(promotion_extras({str(run_root)!r}, None, 0)) == ["openlineage.ndjson"] and len(statements_of_run({str(run_root)!r}, 0)) == 2
for call in (lambda: promotion_extras({str(run_root)!r}, {str(keys['key'])!r}, 0), lambda: verify_run_signature({str(promoted)!r}, {str(keys['pub'])!r})):
    try:
        call()
    except Seg1aError as error:
        print(error.code, error.exit_status)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["E_SIGN_LIBRARY 2"] * 2, done.stderr
