"""Packs from a folder and from a real object store: whole and proved, or refused with a record and nothing else."""

import json
import shutil
from pathlib import Path

import pytest
from store_support import flipped, proxy

from seg1a.core.errors import Seg1aError, StagingError
from seg1a.inputs.manifest import CHECKSUMS, MANIFEST, verify_pack
from seg1a.operations import stage as stage_module
from seg1a.operations.cli import main
from seg1a.operations.stage import stage

@pytest.fixture
def policy(small_pack) -> str:
    """Path of a policy file in the pack."""
    (path,) = small_pack.rglob("policy.s4.hyperparams.yaml")
    return path.relative_to(small_pack).as_posix()


def refusal(source: str, dest: Path, **more) -> dict:
    """The record that a refused staging leaves; it is all that it leaves."""
    with pytest.raises(StagingError) as caught:
        stage(source, dest, **more)
    (record,) = dest.rglob("staging_failure.json")
    assert [path.name for path in dest.iterdir()] == [record.parent.name] and record.parent.name.startswith("_failed.")
    document = json.loads(record.read_bytes())
    assert set(document) == {"code", "path", "expected", "observed"} and document["code"] == caught.value.code
    return document


def test_a_pack_is_staged_whole(places, small_pack, tmp_path):
    lines = []
    there = stage(places.upload(small_pack), tmp_path / "inputs", progress=lines.append)
    assert there == tmp_path / "inputs/test" and verify_pack(there).sha256 == verify_pack(small_pack).sha256
    assert [path.name for path in (tmp_path / "inputs").iterdir()] == ["test"] and lines


def test_staging_twice_is_staging_once(places, small_pack, tmp_path, monkeypatch):
    uri = places.upload(small_pack)
    there = stage(uri, tmp_path / "inputs")
    before = {path: path.stat().st_mtime_ns for path in there.rglob("*")}
    monkeypatch.setattr(stage_module, "_fetch_payload", lambda *args: pytest.fail("fetched again"))
    assert stage(uri, tmp_path / "inputs") == there and {path: path.stat().st_mtime_ns for path in there.rglob("*")} == before


@pytest.mark.parametrize("name", [None, MANIFEST, CHECKSUMS])
def test_a_wrong_byte(places, small_pack, policy, tmp_path, name):
    path = name or policy
    uri = places.upload(small_pack)
    places.put(uri, path, flipped((small_pack / path).read_bytes(), 40))
    document = refusal(uri, tmp_path / "inputs")
    assert document["code"] in {policy: ("E_PACK_DIGEST",), MANIFEST: ("E_PACK_MANIFEST",), CHECKSUMS: ("E_PACK_DIGEST", "E_PACK_FILE_SET")}[path]
    assert name or (document["path"] == policy and document["expected"] != document["observed"])


@pytest.mark.parametrize(("name", "code"), [(None, "E_PACK_FILE_SET"), (MANIFEST, "E_PACK_MANIFEST"), (CHECKSUMS, "E_PACK_FILE_SET")])
def test_a_missing_object(places, small_pack, policy, tmp_path, name, code):
    uri = places.upload(small_pack)
    places.remove(uri, name or policy)
    assert refusal(uri, tmp_path / "inputs")["code"] == code


@pytest.mark.parametrize("extra", ["config/policy/more.yaml", "note", "reference/part-0.parquet"])
def test_an_extra_object(places, small_pack, tmp_path, extra):
    uri = places.upload(small_pack)
    places.put(uri, extra, b"x")
    document = refusal(uri, tmp_path / "inputs")
    assert document["code"] == "E_PACK_FILE_SET" and extra in document["path"]


@pytest.mark.parametrize("longer", [False, True])
def test_an_object_of_another_length(places, small_pack, policy, tmp_path, longer):
    uri, data = places.upload(small_pack), (small_pack / policy).read_bytes()
    places.put(uri, policy, data + b"\n" if longer else data[:-1])
    document = refusal(uri, tmp_path / "inputs")
    assert (document["code"], document["path"], document["expected"]) == ("E_PACK_DIGEST", policy, len(data))


def test_another_version_than_asked_for(places, small_pack, tmp_path):
    document = refusal(places.upload(small_pack), tmp_path / "inputs", artefact_version="2026-01")
    assert (document["code"], document["expected"], document["observed"]) == ("E_PACK_VERSION", "2026-01", "test")


def test_nothing_is_there(places, tmp_path):
    assert refusal(places.fresh(), tmp_path / "inputs")["code"] == "E_PACK_MANIFEST"


def test_an_object_that_changes_while_it_is_fetched(places, small_pack, policy, tmp_path, monkeypatch):
    """The digests are taken of the copy: what the store said before does not count."""
    uri = places.upload(small_pack)
    fetch = stage_module._fetch_payload

    def changed_meanwhile(*args):
        places.put(uri, policy, flipped((small_pack / policy).read_bytes()))
        fetch(*args)
    monkeypatch.setattr(stage_module, "_fetch_payload", changed_meanwhile)
    assert refusal(uri, tmp_path / "inputs")["code"] == "E_PACK_DIGEST"


def test_an_object_that_goes_away_while_it_is_fetched(places, small_pack, policy, tmp_path, monkeypatch):
    uri, fetch = places.upload(small_pack), stage_module._fetch_payload

    def gone(*args):
        places.remove(uri, policy)
        fetch(*args)
    monkeypatch.setattr(stage_module, "_fetch_payload", gone)
    assert refusal(uri, tmp_path / "inputs")["code"] == "E_PACK_FILE_SET"


def test_the_wrong_pack_in_the_place_is_left_alone(places, small_pack, policy, tmp_path):
    there = tmp_path / "inputs/test"
    shutil.copytree(small_pack, there)
    (there / policy).write_bytes(b"damaged")
    with pytest.raises(StagingError) as caught:
        stage(places.upload(small_pack), tmp_path / "inputs")
    assert caught.value.code == "E_PACK_EXISTS" and (there / policy).read_bytes() == b"damaged"


def test_another_process_stages_the_same_pack_meanwhile(places, small_pack, tmp_path, monkeypatch):
    uri, publish = places.upload(small_pack), stage_module._publish

    def slower(temporary, target, index):
        shutil.copytree(small_pack, target)
        publish(temporary, target, index)
    monkeypatch.setattr(stage_module, "_publish", slower)
    assert verify_pack(stage(uri, tmp_path / "inputs")).pack_version == "test"
    assert [path.name for path in (tmp_path / "inputs").iterdir()] == ["test"]


def test_a_symlink_in_a_folder(small_pack, tmp_path):
    shutil.copytree(small_pack, tmp_path / "pack")
    (tmp_path / "pack/config/link").symlink_to("/etc/hostname")
    assert refusal(str(tmp_path / "pack"), tmp_path / "inputs")["code"] == "E_PACK_PATH"


# ---- the network ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(s3_server, small_pack, tmp_path, monkeypatch):
    """A pack in the bucket, and a way to set the endpoint and the key."""
    from store_support import Places

    def reach(**change: str) -> None:
        for name, value in (s3_server.environment() | change).items():
            monkeypatch.setenv(name, value)
    reach()
    return Places("s3", tmp_path, s3_server).upload(small_pack), reach


def test_a_download_that_breaks_off(s3_server, bucket, tmp_path):
    uri, reach = bucket
    with proxy(s3_server, cut_after=6000) as (url, requests):
        reach(AWS_ENDPOINT_URL_S3=url, AWS_MAX_ATTEMPTS="2")
        assert refusal(uri, tmp_path / "inputs")["code"] == "E_STORE_IO"
    assert any(MANIFEST in line for line in requests)


def test_a_busy_store_is_asked_again(s3_server, bucket, tmp_path):
    uri, reach = bucket
    with proxy(s3_server, refuse=5) as (url, requests):
        reach(AWS_ENDPOINT_URL_S3=url)
        assert verify_pack(stage(uri, tmp_path / "inputs")).pack_version == "test"
    assert len(requests) > 5


def test_a_denied_key(bucket, tmp_path, capsys):
    uri, reach = bucket
    reach(AWS_SECRET_ACCESS_KEY="wrong")
    assert refusal(uri, tmp_path / "inputs")["code"] == "E_STORE_DENIED"
    assert main(["stage", uri, str(tmp_path / "more")]) == 2  # a refused pack, whoever refused it
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAIL E_STORE_DENIED ")


def test_the_command_and_a_run_from_the_store(bucket, tmp_path, capsys):
    uri, reach = bucket
    assert main(["stage", uri, str(tmp_path / "inputs"), "--json", "--quiet"]) == 0
    document, line = capsys.readouterr().out.splitlines()
    assert line == f"STAGED {tmp_path}/inputs/test" and json.loads(document)["pack_version"] == "test"
    out = tmp_path / "runs"
    assert main(["run", "--pack", uri, "--output-dir", str(out), "--no-notebooks", "--quiet", "--artefact-version", "test"]) == 0
    assert capsys.readouterr().out.startswith("PASS ") and verify_pack(out / "packs/test").pack_version == "test"
    (stamp,) = out.glob("latest/validation_bundle/*/execution_stamp.json")
    stamp = json.loads(stamp.read_bytes())
    assert stamp["cli_flags"]["artefact_version"] == stamp["pack_version"] == "test" and set(stamp["artefact_versions"]) > {"gdp.parquet"}
    assert main(["run", "--pack", uri, "--output-dir", str(tmp_path / "other"), "--artefact-version", "2026"]) == 2
    assert not list((tmp_path / "other").glob("parameter_hash=*"))


def test_obstore_is_optional(monkeypatch, small_pack, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    assert stage(small_pack.as_uri(), tmp_path / "inputs").name == "test"
    with pytest.raises(Seg1aError) as caught:
        stage("s3://bucket/pack", tmp_path / "inputs")
    assert caught.value.code == "E_STORE_EXTRA" and "seg1a[s3]" in caught.value.remedy
