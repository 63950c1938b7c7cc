"""The same bytes from a Dask cluster: of one machine, with workers that die, on two hosts; and what is left when the cluster goes away."""

import json
import os
import shutil
from pathlib import Path

import pytest
from cluster_support import Hosts, command, dask_cluster, murderer
from run_support import FLAGS, LANES, last_line, run_root, sealed_files
from test_cold_start import loaded_by

from seg1a.core.errors import Interrupted, Seg1aError
from seg1a.core.run import Options
from seg1a.operations.engine import Engine, exchange_place, started
from seg1a.operations.local_cluster import local_cluster
from seg1a.operations.pipeline import RunRequest, run_pipeline

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two workers on this machine."""
    with local_cluster(2) as address:
        yield address


def test_nobody_loads_dask_unasked():
    modules = loaded_by("import seg1a.operations.cli, seg1a.operations.pipeline, seg1a.operations.engine, seg1a.operations.validate, seg1a.operations.output")
    assert "distributed" not in modules and "dask" not in modules and "obstore" not in modules


@pytest.fixture(scope="module")
def cluster_root(seg1a, cluster, sharded_pack, tmp_path_factory) -> Path:
    """A run of three shards whose shards the cluster did."""
    done = seg1a("run", "--pack", sharded_pack, "--output-dir", tmp_path_factory.mktemp("cluster"), "--no-notebooks", "--dask", cluster, *FLAGS, *LANES)
    assert "at once" in done.stderr, done.stderr[-2000:]
    return run_root(done)


def test_same_bytes(cluster_root, in_process_run):
    one, other = sealed_files(in_process_run), sealed_files(cluster_root)
    assert one == other and any("part-s4-00002" in name for name in one)
    assert json.loads((cluster_root / "logs/telemetry/execution_stamp.json").read_bytes())["dask"].startswith("tcp://")


def test_nothing_is_left(cluster_root):
    left = [path.name for path in cluster_root.parent.parent.rglob("*") if path.name.startswith("_")]
    assert set(left) <= {"_passed.flag"}


def test_validators_on_the_cluster_say_the_same(seg1a, cluster, sharded_pack, in_process_run, tmp_path):
    """Of a run that is right and of one with a changed row in the parts and in the trace, to the last finding."""
    root = tmp_path / "run"
    shutil.copytree(in_process_run, root)
    for name, words in (("part-s1-00001.jsonl", b'"blocks":'), ("part-s2-00001.jsonl", b'"blocks":'), ("rng_trace_log.jsonl", b'"draws_total":')):
        path = next(root.rglob(name))
        data = path.read_bytes()
        at = data.index(words, len(data) // 4) + len(words)
        path.write_bytes(data[:at] + (b"2" if data[at:at + 1] != b"2" else b"3") + data[at + 1:])
    for which in ("s1", "s2"):
        plain, dask = (seg1a("validate", root, "--pack", sharded_pack, "--state", which, "--json", *more) for more in ((), ("--dask", cluster)))
        assert plain.stdout == dask.stdout and (plain.returncode, dask.returncode) == (1, 1), dask.stderr[-2000:]
    assert not list(root.parent.glob("_tmp.*"))


def request(pack: Path, folder: Path, engine: Engine | None) -> RunRequest:
    return RunRequest(pack, folder / "runs", 7, "ab" * 20, 1_700_000_000_000_000_000, Options(notebooks=False), 1, dask=engine)


def test_a_lost_scheduler_interrupts_the_run_and_it_goes_on(seg1a, small_pack, tmp_path):
    """Half a state is taken away, what was done stays; without the cluster the run ends with the bytes of one that nothing happened to."""
    with local_cluster(1) as address:
        engine = Engine(address, exchange_place(tmp_path / "runs"))
        lines = []

        def progress(line):
            lines.append(line)
            if line.startswith("S2"):
                os.kill(pid_of_scheduler(address), 9)

        summary = run_pipeline(request(small_pack, tmp_path, engine), progress)
    root = Path(summary["output_dir"])
    failure = summary["run"]["failure"]
    assert (summary["gate"]["status"], failure["code"], failure["state"]) == ("FAIL", "E_CLUSTER_LOST", "S2")
    assert any(line.startswith("S1 passed") for line in lines) and not list(root.rglob("_tmp.*")) and not list(root.rglob("part-s2-*"))
    done = seg1a("run", "--resume", root, "--quiet")
    assert done.returncode == 0 and last_line(done).startswith("PASS "), done.stderr[-2000:]
    undisturbed = run_pipeline(request(small_pack, tmp_path / "whole", None))
    kept = {name: digest for name, digest in sealed_files(root).items() if not name.startswith("_quarantine/")}
    assert kept == sealed_files(Path(undisturbed["output_dir"]))


def pid_of_scheduler(address: str) -> int:
    """The process that listens where the address says."""
    import psutil

    port = int(address.rpartition(":")[2])
    return next(link.pid for link in psutil.net_connections("tcp") if link.laddr.port == port and link.status == psutil.CONN_LISTEN)


@pytest.mark.parametrize("text", ["local:0", "local:x", "tcp://nowhere", "somewhere:1"])
def test_a_wrong_address_is_refused(seg1a, small_pack, tmp_path, text):
    done = seg1a("run", "--pack", small_pack, "--output-dir", tmp_path, "--no-notebooks", "--dask", text)
    assert done.returncode == 2 and last_line(done).startswith("FAIL E_CLUSTER_ADDRESS")


def test_an_interruption_is_no_exception():
    stop = Interrupted(Seg1aError("E_CLUSTER_LOST", "gone"))
    assert not isinstance(stop, Exception) and str(stop) == "E_CLUSTER_LOST: gone"


# Campaigns.

@pytest.fixture(scope="session")
def large_pack(tmp_path_factory) -> Path:
    """A pack of 300 000 merchants: ten shards."""
    from conftest import _built_pack

    return _built_pack(tmp_path_factory.mktemp("packs") / "large", 300_000)


@pytest.fixture(scope="session")
def large_run(seg1a, large_pack, tmp_path_factory) -> dict[str, str]:
    """The sealed files of a run of 300 000 merchants by threads."""
    return sealed_files(run_root(command("run", "--pack", large_pack, "--output-dir", tmp_path_factory.mktemp("threads"), *FLAGS, *LANES)))


@pytest.mark.slow
def test_a_worker_killed_five_times(seg1a, large_pack, large_run, tmp_path):
    """And one that joins in the middle of the run, and one that is stopped for a while."""
    with dask_cluster(2, tmp_path / "dask") as cluster, murderer(cluster, 5) as killed:
        done = command("run", "--pack", large_pack, "--output-dir", tmp_path / "runs", "--dask", cluster.address, *FLAGS, *LANES)
    assert sealed_files(run_root(done)) == large_run and len(killed) == 5


@pytest.mark.slow
def test_a_worker_that_joins_and_one_that_is_slow(seg1a, large_pack, large_run, tmp_path):
    import signal
    import threading

    with dask_cluster(1, tmp_path / "dask") as cluster:
        def meddle() -> None:
            cluster.add(1)
            for _ in range(20):
                cluster.workers[0].send_signal(signal.SIGSTOP)
                over.wait(0.7)
                cluster.workers[0].send_signal(signal.SIGCONT)
                over.wait(0.3)

        over = threading.Event()
        timer = threading.Timer(8, meddle)
        timer.start()
        try:
            done = command("run", "--pack", large_pack, "--output-dir", tmp_path / "runs", "--dask", cluster.address, *FLAGS, *LANES)
        finally:
            over.set()
            timer.join()
    assert sealed_files(run_root(done)) == large_run


@pytest.mark.slow
def test_two_hosts(seg1a, sharded_pack, in_process_run, tmp_path):
    """A worker on each of two hosts, which see the coordinator over a network and the run on a shared folder."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and ip")
    try:
        hosts = Hosts("sg1")
    except OSError as error:
        pytest.skip(f"network namespaces are not allowed here: {error}")
    try:
        with dask_cluster(2, tmp_path / "dask", host=hosts.gate, prefix=hosts.run_in) as cluster:
            done = command("run", "--pack", sharded_pack, "--output-dir", tmp_path / "runs", "--no-notebooks", "--dask", cluster.address, *FLAGS, *LANES)
    finally:
        hosts.remove()
    assert sealed_files(run_root(done)) == sealed_files(in_process_run)
    log = (tmp_path / "dask" / "dask.log").read_text()
    assert all(f"{hosts.net}.{number}:" in log for number in (2, 3))
