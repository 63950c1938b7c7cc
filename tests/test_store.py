"""The store itself: what a bucket and a folder have in common, what the network does to a bucket, and what a key may not do."""

import os
import threading

import pytest
from store_support import BUCKET, code_of, proxy

from seg1a.core.errors import UsageError
from seg1a.operations import store as stores
from seg1a.operations.store import digest, download, in_parallel, open_store, read


def test_the_verbs_are_the_same(places, tmp_path):
    store = open_store(places.fresh())
    assert store.list() == {}
    (tmp_path / "source").write_bytes(b"from a file")
    assert store.create("a/b=1/c.txt", b"bytes") and store.create("empty", b"") and store.create("z", tmp_path / "source")
    assert not store.create("z", b"another")
    assert store.list() == {"a/b=1/c.txt": 5, "empty": 0, "z": 11} and list(store.list()) == sorted(store.list())
    assert read(store, "z") == b"from a file" and read(store, "empty") == b""
    assert digest(store, "a/b=1/c.txt")[1] == 5
    store.delete("z")
    assert "z" not in store.list()
    for call in (read, digest):
        assert code_of(call, store, "z") == "E_STORE_NOT_FOUND"
    assert code_of(download, store, "z", tmp_path / "got", 10) == "E_STORE_NOT_FOUND"
    assert code_of(download, store, "a/b=1/c.txt", tmp_path / "short", 4) == "E_STORE_TOO_LARGE"


def test_a_neighbour_with_the_same_beginning_is_not_listed(places):
    uri = places.fresh()
    places.put(uri, "x", b"1")
    places.put(uri + "-more", "y", b"2")
    assert open_store(uri).list() == {"x": 1}


def test_of_sixteen_creators_one_wins(places):
    uri = places.fresh()
    stores_ = [open_store(uri) for _ in range(16)]
    start = threading.Barrier(16)

    def one(number: int) -> bool:
        start.wait()
        return stores_[number].create("claim", b"%d" % number)
    won = in_parallel(one, range(16), threads=16)
    assert sum(won) == 1 and read(open_store(uri), "claim") == b"%d" % won.index(True)


def test_a_log_is_replaced_only_by_who_saw_its_last_version(places):
    store = open_store(places.fresh())
    assert store.read_version("log") == (b"", None)
    store.replace("log", b"1\n", None)
    _, version = store.read_version("log")
    store.replace("log", b"1\n2\n", version)
    assert code_of(store.replace, "log", b"1\n3\n", version) == "E_STORE_CONFLICT"
    assert code_of(store.replace, "log", b"x", None) == "E_STORE_CONFLICT"
    assert read(store, "log") == b"1\n2\n"


def test_a_large_file_goes_up_and_down_without_being_held(s3_server, tmp_path, monkeypatch):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    size = 64 << 20
    with open(tmp_path / "large", "wb") as file:
        file.truncate(size)
    store = open_store(f"s3://{BUCKET}/large")

    def anonymous() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))
    store.create("warm", b"x"), digest(store, "warm")
    before = anonymous()
    assert store.create("one-put", tmp_path / "large") and not store.create("one-put", b"other")
    assert digest(store, "one-put")[1] == size and anonymous() - before < size // 2
    monkeypatch.setattr(stores, "ONE_PUT", 1 << 20)
    assert store.create("in-parts", tmp_path / "large") and not store.create("in-parts", tmp_path / "large")
    assert digest(store, "one-put") == digest(store, "in-parts")
    store.delete("one-put"), store.delete("in-parts")


@pytest.mark.parametrize(("key", "secret"), [("nobody", "x"), ("writer", "wrong"), ("stranger", "stranger-secret")])
def test_a_denied_key(s3_server, monkeypatch, key, secret):
    for name, value in (s3_server.environment(key) | {"AWS_SECRET_ACCESS_KEY": secret}).items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{BUCKET}/anything")
    for call in (store.list, lambda: store.create("x", b"1"), lambda: read(store, "x")):
        assert code_of(call) == "E_STORE_DENIED"


def test_a_reader_may_not_write(s3_server, monkeypatch):
    for name, value in s3_server.environment("reader").items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{BUCKET}/anything")
    assert store.list() == {} and code_of(store.create, "x", b"1") == "E_STORE_DENIED"


def test_a_bucket_that_is_not_there(s3_server, monkeypatch):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    assert code_of(open_store("s3://no-such-bucket/x").list) == "E_STORE_NOT_FOUND"


def test_503_is_asked_again(s3_server, monkeypatch):
    with proxy(s3_server, refuse=3) as (url, requests):
        for name, value in (s3_server.environment() | {"AWS_ENDPOINT_URL_S3": url}).items():
            monkeypatch.setenv(name, value)
        store = open_store(f"s3://{BUCKET}/busy")
        assert store.create("x", b"1") and read(store, "x") == b"1"
    assert requests[0].startswith("PUT") and len(requests) >= 4


def test_503_for_ever_is_an_error(s3_server, monkeypatch):
    with proxy(s3_server, refuse=1000) as (url, requests):
        for name, value in (s3_server.environment() | {"AWS_ENDPOINT_URL_S3": url, "AWS_MAX_ATTEMPTS": "2"}).items():
            monkeypatch.setenv(name, value)
        assert code_of(open_store(f"s3://{BUCKET}/busy").list) == "E_STORE_IO"
    assert len(requests) == 2


def test_http_is_spoken_only_to_an_endpoint_that_says_so(monkeypatch):
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert code_of(open_store("s3://bucket").list) == "E_STORE_IO"


@pytest.mark.parametrize("uri", ["gs://bucket/x", "s3://", "file://otherhost/x", "s3://bucket/x#y"])
def test_what_names_no_store(uri):
    with pytest.raises(UsageError) as caught:
        open_store(uri)
    assert caught.value.code == "E_STORE_URI" and caught.value.exit_status == 2
