"""A real object store on this machine, and hands that reach into a place behind the engine's back."""

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from seg1a.core.errors import Seg1aError
from seg1a.operations.store import open_store

KEYS = {"writer": ["Admin", "Read", "Write", "List"], "reader": ["Read", "List"], "stranger": ["Read:other"]}
BUCKET = "bucket"


def code_of(call, *args, **more) -> str:
    """The code of the error that a call must end with."""
    with pytest.raises(Seg1aError) as caught:
        call(*args, **more)
    return caught.value.code


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class S3Server:
    """SeaweedFS with an S3 door on the loopback interface."""

    def __init__(self, folder: Path):
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc")
        ports = dict(zip(names, free_ports(len(names))))
        identities = [{"name": name, "credentials": [{"accessKey": name, "secretKey": f"{name}-secret"}], "actions": actions} for name, actions in KEYS.items()]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        (folder / "data").mkdir()
        flags = [f"-{name}={port}" for name, port in ports.items()] + ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=100"]  # room for a run of 300 000 merchants
        beside = Path(sys.executable).parent  # its package puts it into the environment, which need not be on the PATH
        command = [shutil.which("weed", path=f"{beside}:{os.environ.get('PATH', '')}"), "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.config={folder / 's3.json'}", *flags]
        self.log = folder / "weed.log"
        self.endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        self.process = subprocess.Popen(command, stdout=self.log.open("wb"), stderr=subprocess.STDOUT, cwd=folder)

    def environment(self, key: str = "writer", **more: str) -> dict[str, str]:
        """What a command needs to reach the store with a key."""
        return {"AWS_ENDPOINT_URL_S3": self.endpoint, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": f"{key}-secret", **more}

    def wait(self) -> None:
        """Return when an object can be written and read."""
        deadline = time.monotonic() + 90
        while True:
            with suppress(urllib.error.HTTPError):  # any answer is an answer
                with suppress(OSError):
                    urllib.request.urlopen(self.endpoint, timeout=2)
            try:
                self.client().put("hello", b"hello")
                return
            except Exception:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError(self.log.read_text()[-3000:])
                time.sleep(0.2)

    def client(self):
        """A client of its own, with all rights, that the engine knows nothing of."""
        from obstore.store import S3Store

        return S3Store(BUCKET, endpoint=self.endpoint, region="us-east-1", access_key_id="writer", secret_access_key="writer-secret",
                       client_options={"allow_http": True}, retry_config={"max_retries": 0})

    def stop(self) -> None:
        """End the server; what it holds is thrown away, so it need not be asked kindly."""
        self.process.kill()
        self.process.wait()


class Places:
    """Fresh places of one kind, and raw access to what lies there."""

    def __init__(self, kind: str, folder: Path, server: S3Server | None):
        self.kind, self._folder, self._server, self._numbers = kind, folder, server, itertools.count()
        self._client = server.client() if server else None

    def fresh(self) -> str:
        """The URI of a place where nothing is."""
        name = f"{self._folder.name}-{next(self._numbers)}"
        return f"s3://{BUCKET}/{name}" if self._server else (self._folder / name).as_uri()

    def _raw(self, uri: str, path: str) -> str:
        return f"{uri.removeprefix(f's3://{BUCKET}/')}/{path}" if self._server else f"{uri.removeprefix('file://')}/{path}"

    def files(self, uri: str) -> dict[str, bytes]:
        """path -> bytes of everything at a place."""
        store = open_store(uri)
        return {path: b"".join(map(bytes, store.blocks(path))) for path in store.list()}

    def put(self, uri: str, path: str, data: bytes) -> None:
        """Write a file, whatever was there."""
        place = self._raw(uri, path)
        if self._client:
            self._client.put(place, data, mode="overwrite")
        else:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Path(place).write_bytes(data)

    def remove(self, uri: str, path: str) -> None:
        """Remove a file."""
        self._client.delete(self._raw(uri, path)) if self._client else Path(self._raw(uri, path)).unlink()

    def upload(self, folder: Path) -> str:
        """A fresh place with the files of a folder."""
        uri = self.fresh()
        for path in (path for path in folder.rglob("*") if path.is_file()):
            self.put(uri, path.relative_to(folder).as_posix(), path.read_bytes())
        return uri

    def environment(self) -> dict[str, str]:
        """What a process of its own needs to reach these places."""
        return self._server.environment() if self._server else {}


@contextmanager
def proxy(server: S3Server, refuse: int = 0, cut_after: int | None = None):
    """An endpoint in front of the server that answers 503 `refuse` times, and cuts every answer after so many bytes; yields (URL, log of requests)."""
    door, requests, running = socket.create_server(("127.0.0.1", 0)), [], True
    host, port = server.endpoint.removeprefix("http://").split(":")

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):
            head = client.recv(65536)
            requests.append(head.split(b"\r\n", 1)[0].decode())
            if len(requests) <= refuse:
                client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            with socket.create_connection((host, int(port))) as upstream:
                upstream.sendall(head)
                threading.Thread(target=pump, args=(client, upstream, None), daemon=True).start()
                pump(upstream, client, cut_after)

    def pump(source: socket.socket, target: socket.socket, limit: int | None) -> None:
        sent = 0
        with suppress(OSError):
            while data := source.recv(16384):
                if limit is not None and sent + len(data) > limit:
                    target.sendall(data[: limit - sent])
                    break
                target.sendall(data)
                sent += len(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while running:
            with suppress(OSError):
                threading.Thread(target=serve, args=(door.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{door.getsockname()[1]}", requests
    finally:
        running = False
        door.close()


def flipped(data: bytes, position: int = -1) -> bytes:
    """The bytes with one bit changed; of no bytes, one byte."""
    changed = bytearray(data or b"x")
    if data:
        changed[position] ^= 1
    return bytes(changed)
