"""Clusters of their own for tests: workers that can be killed, hosts of their own, and a store in front of which somebody says 503."""

import http.client
import os
import random
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from store_support import free_ports

CHECKOUT = Path(__file__).resolve().parent.parent


def environment(**more: str) -> dict[str, str]:
    """What a process of the cluster finds: this checkout, and no thread that nobody asked for."""
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"} | more


def command(*arguments, **more: str) -> subprocess.CompletedProcess:
    """`seg1a` in a new interpreter; a campaign may take an hour on a busy machine."""
    return subprocess.run([sys.executable, "-m", "seg1a", *map(str, arguments)], capture_output=True, text=True, env=environment(**more), timeout=3600)


class DaskCluster:
    """A scheduler and workers as an operator starts them, each a process; `prefix(n)` is put before the command of worker n."""

    def __init__(self, workers: int, folder: Path, host: str = "127.0.0.1", prefix=lambda n: [], scheduler_prefix=(), **more: str):
        self.folder, self.prefix, self.environment, self.log = folder, prefix, environment(**more), open(folder / "dask.log", "ab")
        self.address = f"tcp://{host}:{free_ports(1)[0]}"
        command = [*scheduler_prefix, sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", self.address, "--no-dashboard", "--no-show"]
        self.scheduler = self._start(command)
        self.workers: dict[int, subprocess.Popen] = {}
        for number in range(workers):
            self.add(number)

    def _start(self, command: list[str]) -> subprocess.Popen:
        return subprocess.Popen(command, env=self.environment, stdout=self.log, stderr=self.log, cwd=self.folder)

    def add(self, number: int) -> None:
        """Start worker `number`, or start it again."""
        command = [*self.prefix(number), sys.executable, "-m", "distributed.cli.dask_worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
                   "--memory-limit", "0", "--local-directory", str(self.folder / f"worker-{number}"), "--death-timeout", "60"]
        self.workers[number] = self._start(command)

    def kill(self, number: int) -> None:
        """SIGKILL to a worker."""
        self.workers[number].kill()
        self.workers[number].wait()

    def stop(self) -> None:
        """End everything."""
        for process in (*self.workers.values(), self.scheduler):
            process.kill()
            process.wait()
        self.log.close()


@contextmanager
def dask_cluster(workers: int, folder: Path, **more):
    """A DaskCluster for the length of a block."""
    folder.mkdir(parents=True, exist_ok=True)
    cluster = DaskCluster(workers, folder, **more)
    try:
        yield cluster
    finally:
        cluster.stop()


@contextmanager
def murderer(cluster: DaskCluster, times: int, pause=(1.0, 4.0), seed: int = 5):
    """Kills random workers so many times, and starts each again; yields the list of the killed."""
    killed, over, source = [], threading.Event(), random.Random(seed)

    def kill() -> None:
        while len(killed) < times and not over.wait(source.uniform(*pause)):
            victim = source.choice(sorted(cluster.workers))
            cluster.kill(victim)
            killed.append(victim)
            cluster.add(victim)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


class Moody:
    """An endpoint before an S3 server that after `good` requests answers 503 to all for so many seconds, each time anew."""

    def __init__(self, endpoint: str, good: int = 20, seconds: float = 5.0, times: int = 2):
        self.upstream, self.until, self.refused, self.passed, self.times = endpoint.removeprefix("http://"), 0.0, 0, 0, times
        moody = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if time.monotonic() < moody.until:
                    moody.refused += 1
                    return self.answer(503, [], b"")
                moody.passed += 1
                if moody.passed % good == 0 and moody.times:
                    moody.until, moody.times = time.monotonic() + seconds, moody.times - 1
                link = http.client.HTTPConnection(moody.upstream, timeout=60)
                link.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    link.putheader(name, value)
                link.endheaders(body)
                got = link.getresponse()
                self.answer(got.status, got.getheaders(), got.read(), got.getheader("Content-Length"))
                link.close()

            def answer(self, status, headers, body, length=None) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(body if self.command != "HEAD" else b"")

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve

            def log_message(self, *words) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Close the door."""
        self.server.shutdown()
        self.server.server_close()


class Hosts:
    """Two hosts of our own, network namespaces that are linked to this machine by a bridge. `PermissionError` or `OSError` where that is not allowed."""

    def __init__(self, name: str):
        self.name, self.hosts = name, [f"{name}h1", f"{name}h2"]
        self.net = f"10.{random.Random(name).randrange(64, 128)}.{os.getpid() % 250}"
        self.gate = f"{self.net}.1"
        try:
            self._ip("link", "add", f"{name}b", "type", "bridge")
            self._ip("addr", "add", f"{self.gate}/24", "dev", f"{name}b")
            self._ip("link", "set", f"{name}b", "up")
            for number, host in enumerate(self.hosts, 2):
                self._ip("netns", "add", host)
                self._ip("link", "add", f"{host}o", "type", "veth", "peer", "name", "eth0", "netns", host)
                self._ip("link", "set", f"{host}o", "master", f"{name}b", "up")
                for words in (["addr", "add", f"{self.net}.{number}/24", "dev", "eth0"], ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"]):
                    self._ip("-n", host, *words)
        except BaseException:
            self.remove()
            raise

    def _ip(self, *words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
        if done.returncode:
            raise PermissionError(f"ip {' '.join(words)}: {done.stderr.strip()}")

    def run_in(self, number: int) -> list[str]:
        """What to put before a command so that it runs on host `number`."""
        return ["ip", "netns", "exec", self.hosts[number]]

    def remove(self) -> None:
        """Take hosts and bridge away."""
        for words in [["netns", "del", host] for host in self.hosts] + [["link", "del", f"{self.name}b"]]:
            subprocess.run(["ip", *words], capture_output=True)
