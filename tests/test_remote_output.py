"""Run roots in an object store, with and without a cluster, on a good day and on a bad one."""

import json
import os
import shutil
from pathlib import Path

import pytest
from cluster_support import Moody, command, dask_cluster, murderer
from run_support import FLAGS, LANES, last_line, sealed_files
from store_support import BUCKET, Places
from test_cluster import large_pack, large_run  # noqa: F401  fixtures

from seg1a.operations.engine import exchange_at
from seg1a.operations.local_cluster import local_cluster
from seg1a.operations.store import open_store

RUN = (*FLAGS, "--no-notebooks")


def fetched(uri: str, folder: Path) -> Path:
    """A copy of everything at a place."""
    store = open_store(uri)
    for path in store.list():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"".join(map(bytes, store.blocks(path))))
    return folder


@pytest.fixture(scope="module")
def local(seg1a, small_pack, tmp_path_factory) -> dict[str, str]:
    """The sealed files of a run of 400 merchants in a folder."""
    done = seg1a("run", "--pack", small_pack, "--output-dir", tmp_path_factory.mktemp("local"), *RUN)
    return sealed_files(Path(last_line(done).removeprefix("PASS ")))


@pytest.fixture
def bucket(s3_server, tmp_path, monkeypatch) -> str:
    """A fresh prefix of a real store, for this process and for commands."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return Places("s3", tmp_path, s3_server).fresh()


def test_a_run_in_a_bucket(seg1a, small_pack, bucket, local, tmp_path):
    done = seg1a("run", "--pack", small_pack, "--output-dir", bucket, "--scratch", tmp_path / "work", *RUN)
    verdict, _, place = last_line(done).partition(" ")
    assert verdict == "PASS" and place.startswith(f"{bucket}/parameter_hash="), done.stderr[-2000:]
    assert sealed_files(fetched(place, tmp_path / "copy")) == local
    assert bytes(b"".join(map(bytes, open_store(bucket).blocks("latest")))).decode() == place.removeprefix(bucket + "/") + "\n"
    assert not list((tmp_path / "work").rglob("run_root.json"))
    assert last_line(seg1a("verify", place)) == f"PASS {place}"
    # the same run again: nothing there is replaced, and what was made here is not thrown away
    again = seg1a("run", "--pack", small_pack, "--output-dir", bucket, "--scratch", tmp_path / "work", *RUN)
    assert last_line(again) == f"PASS {place}"
    data = next(path for path in open_store(place).list() if "part-s1" in path)
    open_store(place).delete(data)
    assert last_line(seg1a("verify", place)).startswith("FAIL E_VERIFY_FAILED")


def test_a_failed_run_leaves_its_evidence(seg1a, small_pack, bucket, tmp_path):
    done = seg1a("run", "--pack", small_pack, "--output-dir", bucket, "--scratch", tmp_path / "work", *RUN, "--expect-parameter-hash", "0" * 64)
    assert done.returncode == 1 and f"(record: {bucket}/_failed/" in done.stderr
    paths = list(open_store(bucket).list())
    assert any(path.endswith("failure.json") for path in paths) and all(path.startswith("_failed/") and not path.endswith("_passed.flag") for path in paths)


def test_another_run_in_the_place_is_a_conflict(seg1a, small_pack, bucket, local, tmp_path):
    index = next(name for name in local if name.startswith("validation_bundle/") and name.endswith("/index.json"))
    root = json.loads(json.dumps(seg1a("run", "--pack", small_pack, "--output-dir", tmp_path / "first", *RUN).stdout.splitlines()[-1])).removeprefix("PASS ")
    place = f"{bucket}/{Path(root).parent.name}/{Path(root).name}"
    open_store(place).create(index, b"another run's")
    done = seg1a("run", "--pack", small_pack, "--output-dir", bucket, "--scratch", tmp_path / "work", *RUN)
    assert done.returncode == 1 and last_line(done).startswith("FAIL E_PROMOTE_CONFLICT") and f"lies whole at {tmp_path / 'work'}" in last_line(done)
    assert list(open_store(place).list()) == [index]
    shutil.rmtree(tmp_path / "first")


def test_a_cluster_that_shares_nothing_but_a_store(seg1a, small_pack, s3_server, bucket, local, tmp_path, monkeypatch):
    """Workers see no folder of the run: parts, and what they read of earlier states, go through the bucket. Twice meanwhile the store says 503 for some seconds."""
    moody = Moody(s3_server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moody.url)
    try:
        with local_cluster(1) as address:
            done = seg1a("run", "--pack", small_pack, "--output-dir", bucket, "--scratch", tmp_path / "work", "--dask", address, *RUN)
    finally:
        moody.stop()
    verdict, _, place = last_line(done).partition(" ")
    assert verdict == "PASS", done.stderr[-3000:]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    assert sealed_files(fetched(place, tmp_path / "copy")) == local
    assert moody.refused > 2 and moody.times == 0 and moody.passed > 50 and not [path for path in open_store(bucket).list() if path.startswith("_exchange/")]


def test_blobs_in_a_bucket(bucket, tmp_path):
    exchange = exchange_at(f"{bucket}/blobs")
    ref = exchange.put("label", b"data")
    assert exchange.put("label", b"data") == ref and exchange.get(ref) == b"data"
    exchange.fetch(ref, tmp_path / "fetched")
    exchange.clear()
    assert (tmp_path / "fetched").read_bytes() == b"data" and open_store(bucket).list() == {}


@pytest.mark.slow
@pytest.mark.parametrize("kills", [0, 5])
def test_ten_shards_by_two_workers_through_a_store(seg1a, s3_server, bucket, large_pack, large_run, tmp_path, monkeypatch, kills):  # noqa: F811
    """300 000 merchants: output and exchange in the store; 503 for a while, and workers killed."""
    moody = Moody(s3_server.endpoint, 150, 5.0, 3)
    environment = s3_server.environment(AWS_ENDPOINT_URL_S3=moody.url)
    try:
        with dask_cluster(2, tmp_path / "dask", **environment) as cluster, murderer(cluster, kills) as killed:
            done = command("run", "--pack", large_pack, "--output-dir", bucket, "--scratch", tmp_path / "work", "--dask", cluster.address, *FLAGS, *LANES, **environment)
    finally:
        moody.stop()
    verdict, _, place = last_line(done).partition(" ")
    assert verdict == "PASS" and len(killed) == kills, done.stderr[-3000:]
    assert sealed_files(fetched(place, tmp_path / "copy")) == large_run
    assert BUCKET in place and os.path.exists(tmp_path / "work")
