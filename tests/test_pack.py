"""Packs: what is refused and how, that a build is a function of its inputs, and that sources of any shape are either read exactly or refused."""

import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg1a.core.cache import cache_root
from seg1a.core.encoding import canonical_line
from seg1a.core.errors import StagingError
from seg1a.inputs.manifest import CHECKSUMS, MANIFEST, PackManifest, checksums_text, pack_parameter_hash, path_problem, read_manifest, verify_pack
from seg1a.inputs.pack import MERCHANT_TABLE, build_pack, default_policies, default_reference, dev_pack, overlay_pack
from seg1a.inputs.snapshot import MERCHANTS, below, jenks_breaks, merchant_ids, merchant_snapshot, snapshot_weights, words
from seg1a.inputs.sources import ROW_GROUP, read_source, write_canonical

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    """A pack of 300 merchants, never changed by a test."""
    return build_pack(tmp_path_factory.mktemp("pack") / "pack", 300, CHECKOUT / "reference", CHECKOUT / "policies", "test")


@pytest.fixture
def copy(pack, tmp_path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(pack, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def refusal(call, *args, **kwargs) -> StagingError:
    """The refusal that a call ends with."""
    with pytest.raises(StagingError) as caught:
        call(*args, **kwargs)
    return caught.value


def edit(pack: Path, change) -> None:
    """Change the parsed manifest of a pack and write it back."""
    content = json.loads((pack / MANIFEST).read_bytes())
    change(content)
    (pack / MANIFEST).write_bytes(canonical_line(content))


def reindex(pack: Path, artefacts: list) -> None:
    """Index files that are right in themselves for these artefacts."""
    artefacts = sorted(artefacts, key=lambda a: a.path)
    text = checksums_text((a.path, a.sha256) for a in artefacts).encode()
    (pack / CHECKSUMS).write_bytes(text)
    manifest = PackManifest(pack, "test", "2025-11-03T00:00:00.000000Z", hashlib.sha256(text).hexdigest(), None, tuple(artefacts))
    (pack / MANIFEST).write_bytes(manifest.to_json())


# ---- verification: one fault, one code -------------------------------------------------------------------------------

SOME = "config/policy/policy.s3.thresholds.yaml"


def set_key(*keys_and_value):
    """A change of the manifest: the value at a path of keys."""
    *keys, last, value = keys_and_value

    def change(content):
        for key in keys:
            content = content[key]
        content[last] = value

    return lambda pack: edit(pack, change)


def drop_key(*keys):
    """A change of the manifest: a key less."""

    def change(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return lambda pack: edit(pack, change)


def with_path(path: str):
    """A change of the manifest: one more artefact under an odd path."""

    def change(content):
        content["artefacts"].append({**content["artefacts"][0], "path": path})
        content["artefacts"].sort(key=lambda a: a["path"])

    return lambda pack: edit(pack, change)


def replaced_by_link(pack):
    (pack / SOME).rename(pack.parent / "outside.yaml")
    (pack / SOME).symlink_to(pack.parent / "outside.yaml")


def folder_behind_link(pack):
    (pack / "config").rename(pack.parent / "config")
    (pack / "config").symlink_to(pack.parent / "config", target_is_directory=True)


def without_artefact(name):
    def change(pack):
        manifest = read_manifest(pack)
        (pack / manifest.artefact(name).path).unlink()
        reindex(pack, [a for a in manifest.artefacts if a.name != name])

    return change


def second_file(path: str, **facts):
    def change(pack):
        manifest = read_manifest(pack)
        one = manifest.artefact("policy.s3.thresholds.yaml")
        (pack / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pack / one.path, pack / path)
        reindex(pack, [*manifest.artefacts, replace(one, path=path, **facts)])

    return change


def governed(name: str, **facts):
    def change(pack):
        manifest = read_manifest(pack)
        reindex(pack, [replace(a, **facts) if a.name == name else a for a in manifest.artefacts])

    return change


def append(path: str, data: bytes):
    def change(pack):
        with open(pack / path, "ab") as file:
            file.write(data)

    return change


def flip(path: str):
    def change(pack):
        data = bytearray((pack / path).read_bytes())
        data[len(data) // 2] ^= 0x10
        (pack / path).write_bytes(data)

    return change


def checksum_line(edit_lines):
    def change(pack):
        lines = (pack / CHECKSUMS).read_bytes().splitlines(True)
        (pack / CHECKSUMS).write_bytes(b"".join(edit_lines(lines)))

    return change


FAULTS = {
    "no manifest": ("E_PACK_MANIFEST", lambda p: (p / MANIFEST).unlink()),
    "manifest is a folder": ("E_PACK_MANIFEST", lambda p: ((p / MANIFEST).unlink(), (p / MANIFEST).mkdir())),
    "manifest is a link": ("E_PACK_MANIFEST", lambda p: ((p / MANIFEST).rename(p.parent / "m"), (p / MANIFEST).symlink_to(p.parent / "m"))),
    "manifest is empty": ("E_PACK_MANIFEST", lambda p: (p / MANIFEST).write_bytes(b"")),
    "manifest is a list": ("E_PACK_MANIFEST", lambda p: (p / MANIFEST).write_bytes(b"[]\n")),
    "byte order mark": ("E_PACK_MANIFEST", lambda p: (p / MANIFEST).write_bytes(b"\xef\xbb\xbf" + (p / MANIFEST).read_bytes())),
    "not UTF-8": ("E_PACK_MANIFEST", lambda p: (p / MANIFEST).write_bytes(b'{"a":"\xff"}\n')),
    "duplicate key": ("E_PACK_MANIFEST", lambda p: (p / MANIFEST).write_bytes((p / MANIFEST).read_bytes().replace(b'{"artefacts"', b'{"pack_version":"x","artefacts"', 1))),
    "NaN": ("E_PACK_MANIFEST", lambda p: (p / MANIFEST).write_bytes((p / MANIFEST).read_bytes().replace(b'"size_bytes":', b'"size_bytes":NaN,"x":', 1))),
    "indented": ("E_PACK_MANIFEST", lambda p: (p / MANIFEST).write_text(json.dumps(json.loads((p / MANIFEST).read_bytes()), indent=1, sort_keys=True))),
    "another format": ("E_PACK_MANIFEST", set_key("pack_format", "seg1a.artefact_pack.v2")),
    "another hash": ("E_PACK_MANIFEST", set_key("hash_algorithm", "sha512")),
    "key too many": ("E_PACK_MANIFEST", set_key("note", "x")),
    "key too few": ("E_PACK_MANIFEST", drop_key("created_utc")),
    "parameter hash missing": ("E_PACK_MANIFEST", drop_key("parameter_hash")),
    "parameter hash in capitals": ("E_PACK_MANIFEST", set_key("parameter_hash", "A" * 64)),
    "time without zone": ("E_PACK_MANIFEST", set_key("created_utc", "2025-11-03T08:00:00.000000")),
    "version climbs": ("E_PACK_MANIFEST", set_key("pack_version", "../v")),
    "no artefacts": ("E_PACK_MANIFEST", set_key("artefacts", [])),
    "artefact key too many": ("E_PACK_MANIFEST", set_key("artefacts", 0, "note", "x")),
    "artefact key too few": ("E_PACK_MANIFEST", drop_key("artefacts", 0, "licence")),
    "unknown role": ("E_PACK_MANIFEST", set_key("artefacts", 0, "role", "friend")),
    "boolean as text": ("E_PACK_MANIFEST", set_key("artefacts", 0, "required", "true")),
    "size as boolean": ("E_PACK_MANIFEST", set_key("artefacts", 0, "size_bytes", True)),
    "size as float": ("E_PACK_MANIFEST", set_key("artefacts", 0, "size_bytes", 1.0)),
    "negative size": ("E_PACK_MANIFEST", set_key("artefacts", 0, "size_bytes", -1)),
    "digest too short": ("E_PACK_MANIFEST", set_key("artefacts", 0, "sha256", "ab")),
    "not sorted": ("E_PACK_MANIFEST", lambda p: edit(p, lambda m: m["artefacts"].reverse())),
    "listed twice": ("E_PACK_MANIFEST", lambda p: edit(p, lambda m: m["artefacts"].insert(0, m["artefacts"][0]))),
    "parameter out of the hash": ("E_PACK_MANIFEST", governed("policy.s3.thresholds.yaml", in_parameter_hash=False)),
    "policy called pinned": ("E_PACK_MANIFEST", governed("policy.s3.thresholds.yaml", role="pinned_only")),
    "table out of the manifest": ("E_PACK_MANIFEST", governed("iso3166.parquet", in_manifest=False)),
    "absolute path": ("E_PACK_PATH", with_path("/etc/hostname")),
    "climbing path": ("E_PACK_PATH", with_path("config/../../x")),
    "dot segment": ("E_PACK_PATH", with_path("./config/x")),
    "empty segment": ("E_PACK_PATH", with_path("config//x")),
    "backslash": ("E_PACK_PATH", with_path("config\\x")),
    "letters outside ASCII": ("E_PACK_PATH", with_path("config/naïve.yaml")),
    "line end in a path": ("E_PACK_PATH", with_path("config/x\n")),
    "file behind a link": ("E_PACK_PATH", replaced_by_link),
    "folder behind a link": ("E_PACK_PATH", folder_behind_link),
    "dangling link": ("E_PACK_PATH", lambda p: (p / "config" / "x").symlink_to("nowhere")),
    "named pipe": ("E_PACK_PATH", lambda p: os.mkfifo(p / "config" / "x")),
    "odd name on disk": ("E_PACK_PATH", lambda p: (p / "config" / "a\\b").touch()),
    "file too many": ("E_PACK_FILE_SET", lambda p: (p / "config" / "policy" / "extra.yaml").write_text("x: 1\n")),
    "file too few": ("E_PACK_FILE_SET", lambda p: (p / SOME).unlink()),
    "no checksums": ("E_PACK_FILE_SET", lambda p: (p / CHECKSUMS).unlink()),
    "checksum line missing": ("E_PACK_FILE_SET", checksum_line(lambda lines: lines[1:])),
    "checksum line twice": ("E_PACK_FILE_SET", checksum_line(lambda lines: [lines[0], *lines])),
    "checksum line torn": ("E_PACK_FILE_SET", checksum_line(lambda lines: [lines[0][:40], *lines[1:]])),
    "one blank only": ("E_PACK_FILE_SET", checksum_line(lambda lines: [lines[0].replace(b"  ", b" "), *lines[1:]])),
    "no line end": ("E_PACK_FILE_SET", checksum_line(lambda lines: [*lines[:-1], lines[-1].rstrip(b"\n")])),
    "manifest lists less": ("E_PACK_FILE_SET", drop_key("artefacts", 0)),
    "one byte changed": ("E_PACK_DIGEST", flip(SOME)),
    "one byte of the merchants": ("E_PACK_DIGEST", lambda p: flip(read_manifest(p).artefact(MERCHANT_TABLE).path)(p)),
    "one byte more": ("E_PACK_DIGEST", append(SOME, b"\n")),
    "emptied": ("E_PACK_DIGEST", lambda p: (p / SOME).write_bytes(b"")),
    "checksums disagree": ("E_PACK_DIGEST", checksum_line(lambda lines: [b"0" * 64 + lines[0][64:], *lines[1:]])),
    "checksums in another order": ("E_PACK_DIGEST", checksum_line(lambda lines: lines[::-1])),
    "digest of the checksums": ("E_PACK_DIGEST", set_key("checksums_sha256", "0" * 64)),
    "digest in the manifest": ("E_PACK_DIGEST", set_key("artefacts", 0, "sha256", "0" * 64)),
    "size in the manifest": ("E_PACK_DIGEST", set_key("artefacts", 0, "size_bytes", 1 << 60)),
    "basename twice": ("E_PACK_BASENAME", second_file("config/other/policy.s3.thresholds.yaml")),
    "name of a contract": ("E_PACK_BASENAME", second_file("config/schemas.1A.yaml", role="pinned_only", in_parameter_hash=False)),
    "name of the attestation": ("E_PACK_BASENAME", second_file("config/numeric_policy_attest.json", role="pinned_only", in_parameter_hash=False)),
    **{f"without {name}": ("E_PACK_MISSING", without_artefact(name)) for name in (
        "hurdle_coefficients.yaml", "nb_dispersion_coefficients.yaml", "crossborder_hyperparams.yaml", "policy.s3.rule_ladder.yaml",
        "policy.s4.hyperparams.yaml", "validation_policy.yaml", "iso3166.parquet", "gdp.parquet", "gdp_bucket_map.parquet",
        "numeric_policy.json", "math_profile_manifest.json", MERCHANT_TABLE)},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_code(copy, fault):
    code, damage = FAULTS[fault]
    verify_pack(copy)
    damage(copy)
    error = refusal(verify_pack, copy)
    assert error.code == code, error
    assert {"path", "expected", "observed"} <= set(error.detail) and error.exit_status == 2 and error.scope == "stage"
    json.dumps(error.detail, default=str)


def test_optional_files_may_be_absent_and_unknown_ones_pinned(copy):
    for name in ("policy.s3.bounds.yaml", "tz_world.parquet", "static.currency_to_country.map.json"):
        without_artefact(name)(copy)
    second_file("reference/notes.txt", artefact_id="notes", role="pinned_only", in_parameter_hash=False)(copy)
    manifest = verify_pack(copy)
    assert manifest.artefact("notes.txt").in_manifest and manifest.artefact("tz_world.parquet") is None


def test_an_unknown_file_may_not_be_a_parameter(copy):
    second_file("config/policy/my_policy.yaml")(copy)
    assert refusal(verify_pack, copy).code == "E_PACK_MANIFEST"


def test_not_a_pack(tmp_path):
    assert refusal(verify_pack, tmp_path / "absent").code == "E_PACK_MANIFEST"
    assert refusal(verify_pack, tmp_path).code == "E_PACK_MANIFEST"


def test_root_behind_a_link_is_fine(pack, tmp_path):
    (tmp_path / "latest").symlink_to(pack)
    assert verify_pack(tmp_path / "latest").sha256 == read_manifest(pack).sha256


def test_sizes_are_checked_before_reading(copy, monkeypatch):
    append(SOME, b"#")(copy)
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("a file was read"))
    assert refusal(verify_pack, copy).code == "E_PACK_DIGEST"


def test_a_huge_manifest_is_not_read(copy):
    with open(copy / MANIFEST, "r+b") as file:
        file.truncate(1 << 40)
    assert refusal(verify_pack, copy).code == "E_PACK_MANIFEST"


def test_sha256sum_agrees(pack):
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum on this machine")
    assert subprocess.run(["sha256sum", "--quiet", "--strict", "-c", CHECKSUMS], cwd=pack).returncode == 0


def test_random_damage_never_escapes_as_a_traceback(copy):
    original, chance = (copy / MANIFEST).read_bytes(), random.Random(7)
    governed_facts = [(a.path, a.role, a.sha256, a.size_bytes, a.in_parameter_hash, a.in_manifest) for a in read_manifest(copy).artefacts]
    for _ in range(400):
        data = bytearray(original)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(data))
            data[at:at + chance.randint(0, 4)] = chance.randbytes(chance.randint(0, 4)) if chance.random() < 0.5 else b'"'
        (copy / MANIFEST).write_bytes(data)
        try:
            manifest = verify_pack(copy)
        except StagingError:
            continue
        assert [(a.path, a.role, a.sha256, a.size_bytes, a.in_parameter_hash, a.in_manifest) for a in manifest.artefacts] == governed_facts


@given(st.text(max_size=30))
@settings(deadline=None)
def test_a_legal_path_stays_below_its_root(path):
    if path_problem(path) is None:
        joined = os.path.normpath(os.path.join("/root/of/pack", path))
        assert joined.startswith("/root/of/pack/") and joined == "/root/of/pack/" + path


# ---- building --------------------------------------------------------------------------------------------------------


def tree(root: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_two_builds_have_the_same_bytes(pack, tmp_path):
    script = "import sys; from seg1a.inputs.pack import build_pack; build_pack(sys.argv[1], 300, pack_version='test')"
    environment = {**os.environ, "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "5", "LC_ALL": "C"}
    subprocess.run([sys.executable, "-c", script, tmp_path / "other"], check=True, cwd=CHECKOUT, env=environment)
    assert tree(tmp_path / "other") == tree(pack)


def test_source_date_epoch_is_honoured(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    manifest = read_manifest(build_pack(tmp_path / "p", 5))
    assert manifest.created_utc == "2023-11-14T22:13:20.000000Z" and manifest.pack_version == "2023-11-14-dev"


def test_an_identical_destination_is_accepted_and_another_is_not(copy, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    assert build_pack(copy, 300, pack_version="test") == copy
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*")} == before
    error = refusal(build_pack, copy, 301, pack_version="test")
    assert error.code == "E_PACK_EXISTS" and verify_pack(copy)
    (copy / "extra").touch()
    assert refusal(build_pack, copy, 300, pack_version="test").code == "E_PACK_EXISTS"
    assert not list(tmp_path.glob("_tmp.*"))


def test_no_permission_leaves_nothing(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert refusal(build_pack, tmp_path / "p", 5).code == "E_PACK_WRITE"


def test_an_interrupted_build_leaves_nothing(tmp_path):
    script = ("import sys, os\nfrom seg1a.inputs import pack\n"
              "def stop(*a): raise KeyboardInterrupt\npack._write_index = stop\n"
              "try: pack.build_pack(sys.argv[1], 5)\nexcept KeyboardInterrupt: pass\n")
    subprocess.run([sys.executable, "-c", script, tmp_path / "p"], check=True, cwd=CHECKOUT)
    assert list(tmp_path.iterdir()) == []


def test_parquet_and_csv_sources_give_the_same_pack(pack, tmp_path):
    reference = tmp_path / "reference"
    shutil.copytree(CHECKOUT / "reference", reference)
    for table in ("iso3166", "gdp", "gdp_bucket_map"):
        inside = pack / next(a.path for a in read_manifest(pack).artefacts if a.name == f"{table}.parquet")
        (reference / f"{table}.csv").unlink()
        shutil.copy(inside, reference / f"{table}.parquet")
    assert tree(build_pack(tmp_path / "p", 300, reference, pack_version="test")) == tree(pack)


def test_the_reference_tree_of_a_pack_is_a_source(pack, tmp_path):
    merchants = pack / read_manifest(pack).artefact(MERCHANT_TABLE).path
    built = build_pack(tmp_path / "p", merchants, pack / "reference", CHECKOUT / "policies", "test")
    assert [(a.path, a.sha256) for a in read_manifest(built).artefacts] == [(a.path, a.sha256) for a in read_manifest(pack).artefacts]


def test_further_s3_policies_enter_the_parameter_hash(pack, tmp_path):
    policies = tmp_path / "policies"
    shutil.copytree(CHECKOUT / "policies", policies)
    (policies / "policy.s3.seasons.yaml").write_text('semver: "1.0.0"\nversion: "2025-11-03"\n')
    manifest = read_manifest(build_pack(tmp_path / "p", 300, policies=policies, pack_version="test"))
    assert manifest.artefact("policy.s3.seasons.yaml").path == "config/policy/policy.s3.seasons.yaml"
    assert pack_parameter_hash(manifest) != pack_parameter_hash(read_manifest(pack))


def test_policies_are_copied_even_when_a_run_will_refuse_them(tmp_path):
    policies = tmp_path / "policies"
    shutil.copytree(CHECKOUT / "policies", policies)
    (policies / "hurdle_coefficients.yaml").write_text("a: 1\na: 2\n")
    manifest = read_manifest(build_pack(tmp_path / "p", 5, policies=policies, pack_version="test"))
    assert manifest.artefact("hurdle_coefficients.yaml").path == "config/models/hurdle/exports/version=test/test/hurdle_coefficients.yaml"


def test_expected_parameter_hash_is_stated_when_asked(tmp_path):
    manifest = verify_pack(build_pack(tmp_path / "p", 5, expect_parameter_hash=True))
    assert manifest.parameter_hash == pack_parameter_hash(manifest)


@pytest.mark.parametrize("version", ["", ".", "../x", "a/b", "a b", "ä"])
def test_bad_pack_versions(tmp_path, version):
    if version:
        assert refusal(build_pack, tmp_path / "p", 5, pack_version=version).code == "E_PACK_MANIFEST"
    else:
        assert read_manifest(build_pack(tmp_path / "p", 5, pack_version=version)).pack_version.endswith("-dev")


def test_bad_time(tmp_path):
    assert refusal(build_pack, tmp_path / "p", 5, created_utc="yesterday").code == "E_PACK_MANIFEST"
    assert not (tmp_path / "p").exists()


def test_folders_must_be_named_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("seg1a.__file__", str(tmp_path / "site-packages" / "seg1a" / "__init__.py"))
    for call in (default_policies, default_reference, dev_pack):
        error = refusal(call)
        assert error.code == "E_PACK_SOURCE" and "--reference" in error.message and "--policies" in error.message


def test_development_pack_is_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("SEG1A_CACHE_DIR", str(tmp_path))
    assert cache_root() == tmp_path
    lines = []
    first = dev_pack(merchants=50, progress=lines.append)
    assert first.parent == tmp_path / "packs" and len(lines) == 1
    assert dev_pack(merchants=50, progress=lines.append) == first and len(lines) == 1
    assert [p.name for p in (tmp_path / "packs").iterdir()] == [first.name]


# ---- overlays --------------------------------------------------------------------------------------------------------


def test_overlay_changes_what_it_names_and_nothing_else(pack, tmp_path):
    before = tree(pack)
    made = overlay_pack(pack, {"policy.s3.bounds.yaml": b'semver: "9.0.0"\n', "validation_policy.yaml": CHECKOUT / "policies" / "numeric_policy.json"}, tmp_path / "p")
    after = tree(made)
    differ = {name for name in after if after[name] != before.get(name)} - {MANIFEST, CHECKSUMS}
    assert differ == {"config/policy/policy.s3.bounds.yaml", "config/policy/validation_policy.yaml"} and set(after) == set(before)
    assert tree(pack) == before
    inside = next(a.path for a in read_manifest(made).artefacts if a.name == "gdp.parquet")
    assert (made / inside).stat().st_ino != (pack / inside).stat().st_ino, "a link would let one pack change another"


def test_overlay_with_a_table_that_no_contract_accepts(pack, tmp_path):
    pq.write_table(pa.table({"anything": [1.5]}), tmp_path / "m.parquet")
    made = overlay_pack(pack, {MERCHANT_TABLE: tmp_path / "m.parquet"}, tmp_path / "p")
    assert (made / verify_pack(made).artefact(MERCHANT_TABLE).path).read_bytes() == (tmp_path / "m.parquet").read_bytes()


def test_overlay_version_depends_on_the_change(pack, tmp_path):
    versions = {read_manifest(overlay_pack(pack, {"validation_policy.yaml": data}, tmp_path / data.decode())).pack_version for data in (b"a", b"b")}
    assert len(versions) == 2 and all(v.startswith("test+") for v in versions)
    assert read_manifest(overlay_pack(pack, {}, tmp_path / "named", pack_version="mine")).pack_version == "mine"


def test_overlay_of_a_damaged_pack_is_refused(copy, tmp_path):
    flip(SOME)(copy)
    assert refusal(overlay_pack, copy, {}, tmp_path / "p").code == "E_PACK_DIGEST"
    assert refusal(overlay_pack, copy, {"x.yaml": tmp_path / "absent"}, tmp_path / "p").code in ("E_PACK_DIGEST", "E_PACK_SOURCE")


# ---- merchants -------------------------------------------------------------------------------------------------------

ROW = "merchant_id,mcc,channel,home_country_iso\n"


@pytest.mark.parametrize("text, said", [
    (ROW + "1,5411,card_present\n", "row 1: Expected 4 columns"),
    (ROW + "1,5411,card_present,NO\nx,5411,card_present,NO\n", "row 2, column merchant_id: 'x'"),
    (ROW + "1.0,5411,card_present,NO\n", "row 1, column merchant_id: '1.0'"),
    (ROW + "+1,5411,card_present,NO\n", "row 1, column merchant_id: '+1'"),
    (ROW + "1,5411,,NO\n", "row 1, column channel: an empty field"),
    (ROW + "9223372036854775808,5411,card_present,NO\n", "row 1, column merchant_id: '9223372036854775808' is not int64"),
    (ROW + "1,2147483648,card_present,NO\n", "row 1, column mcc: '2147483648' is not int32"),
    ("merchant_id;mcc;channel;home_country_iso\n1;2;3;4\n", "column merchant_id"),
    ("", "column merchant_id"),
    ("1,5411,card_present,NO\n", "column merchant_id"),
])
def test_bad_merchant_files_name_the_place(tmp_path, text, said):
    (tmp_path / "m.csv").write_text(text)
    error = refusal(build_pack, tmp_path / "p", tmp_path / "m.csv")
    assert error.code == "E_PACK_TABLE" and error.message.startswith("m.csv") and said in error.message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.csv"]


def test_the_universe_is_not_judged_here(tmp_path):
    (tmp_path / "m.csv").write_text(ROW + "5,99999,CP,qq\n5,99999,CP,qq\n-3,0,,\n".replace(",,\n", ",x,y\n"))
    assert verify_pack(build_pack(tmp_path / "p", tmp_path / "m.csv"))
    (tmp_path / "empty.csv").write_text(ROW)
    assert verify_pack(build_pack(tmp_path / "q", tmp_path / "empty.csv"))


merchants = st.lists(st.tuples(st.integers(-2**63, 2**63 - 1), st.integers(-2**31, 2**31 - 1), st.sampled_from(["card_present", "card_not_present"]),
                               st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=2, max_size=2)), max_size=40)


@given(rows=merchants, endings=st.sampled_from(["\n", "\r\n"]), quoted=st.booleans(), mark=st.booleans())
@settings(deadline=None, max_examples=60)
def test_csv_comes_back_exactly(tmp_path_factory, rows, endings, quoted, mark):
    folder = tmp_path_factory.mktemp("csv")
    text = endings.join([ROW.strip(), *(",".join(f'"{v}"' if quoted else str(v) for v in row) for row in rows)]) + endings
    (folder / "m.csv").write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.encode())
    table = read_source(folder / "m.csv", MERCHANTS)
    assert [tuple(r.values()) for r in table.to_pylist()] == rows
    write_canonical(folder / "m.parquet", table.to_batches(), MERCHANTS)
    assert read_source(folder / "m.parquet", MERCHANTS).equals(table)


def test_row_groups_do_not_depend_on_batches(tmp_path):
    weights = snapshot_weights(CHECKOUT / "reference")
    n = 2 * ROW_GROUP + 5
    for name, size in (("a", 1 << 18), ("b", 10_007)):
        write_canonical(tmp_path / name, merchant_snapshot(n, weights, batch_rows=size), MERCHANTS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert [pq.ParquetFile(tmp_path / "a").metadata.row_group(i).num_rows for i in range(3)] == [ROW_GROUP, ROW_GROUP, 5]


# ---- the generated snapshot ------------------------------------------------------------------------------------------


def test_snapshot_is_the_same_everywhere():
    weights = snapshot_weights(CHECKOUT / "reference")
    rows = pa.Table.from_batches(merchant_snapshot(1000, weights, 42)).to_pylist()
    mask = (1 << 64) - 1

    def mix(x):
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
        return x ^ x >> 31

    def word(column, row):
        origin = mix((mix(42) + column) & mask)
        return mix((origin + 0x9E3779B97F4A7C15 * (row + 1)) & mask)

    def pick(w, totals):
        at = w * totals[-1] >> 64
        return next(i for i, t in enumerate(totals) if t > at)

    homes, trades = np.cumsum(weights.country_weight).tolist(), np.cumsum(weights.mcc_weight).tolist()
    bands = [(0, 125, 1, 2**31), (125, 500, 2**31, 2**53), (500, 1000, 2**53, 2**63)]
    for i, row in enumerate(rows):
        trade = pick(word(3, i), trades)
        first, end, low, high = next(b for b in bands if b[0] <= i < b[1])
        cell = (high - low) // (end - first)
        assert row == {"merchant_id": low + (i - first) * cell + word(1, i) % cell, "mcc": int(weights.mccs[trade]),
                       "channel": "card_not_present" if word(4, i) * 1000 >> 64 < weights.cnp_per_1000[trade] else "card_present",
                       "home_country_iso": weights.countries[pick(word(2, i), homes)]}


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 1000, 1_000_003])
def test_ids_are_distinct_and_ascending(n):
    ids = merchant_ids(n, 3, 0, n)
    assert ids[0] >= 1 and (np.diff(ids) > 0).all() and ids.dtype == np.int64
    if n >= 1000:
        assert (ids > 2**53).sum() == n - n // 2


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.integers(1, 2**32 - 1))
def test_below_is_the_upper_half_of_the_product(random_words, bound):
    assert below(np.array(random_words, np.uint64), bound).tolist() == [w * bound >> 64 for w in random_words]


def test_words_of_a_range_are_those_of_the_whole():
    whole = words(9, "mcc", 0, 5000)
    assert np.array_equal(np.concatenate([words(9, "mcc", a, min(5000, a + 777)) for a in range(0, 5000, 777)]), whole)


@given(st.lists(st.integers(0, 40), min_size=5, max_size=9))
@settings(deadline=None, max_examples=80)
def test_jenks_is_the_best_of_all_partitions(grid):
    values = {f"k{i}": v / 4 for i, v in enumerate(grid)}
    y = sorted(Fraction(v) for v in values.values())

    def deviation(cuts):
        runs = [y[a:b] for a, b in zip((0, *cuts), (*cuts, len(y)))]
        return sum(sum((v - sum(run) / len(run)) ** 2 for v in run) for run in runs)

    breaks = jenks_breaks(values, 4)
    assert (breaks.deviation, breaks.cuts) == min((deviation(c), c) for c in combinations(range(1, len(y)), 3))
