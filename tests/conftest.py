"""Fixtures that several test files share: packs, and `seg1a` as a user types it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from page_support import chromium  # noqa: F401
from prepared import AT_START, run_forked
from run_support import FLAGS, LANES, run_root

# A slow machine is no failure, and a build that was green stays green until something changes.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

# Long files first, so that no worker is left alone with one at the end.
LONGEST = ("test_docs.py", "test_container.py", "test_same_bytes.py", "test_end_to_end.py", "test_tamper_sweep.py", "test_s4_resume.py", "test_zygote.py", "test_replay.py", "test_validate_command.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


CHECKOUT = Path(__file__).resolve().parent.parent

# Hundreds of interpreters start here: none shall compile again what another has compiled.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout."""
    return CHECKOUT


@pytest.fixture(scope="session")
def seg1a():
    """`seg1a(*arguments, **environment)` -> CompletedProcess of the command line, in a process of its own.

    A copy of a process that has imported everything; `started=True`, or a variable that is read at the start, asks for a new interpreter."""

    def run(*arguments, cwd=None, started=False, **environment) -> subprocess.CompletedProcess:
        arguments = list(map(str, arguments))
        if not started and not any(name.startswith(AT_START) for name in environment):
            return run_forked(arguments, cwd, os.environ | environment)
        command = [sys.executable, "-m", "seg1a", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | environment, timeout=900)

    return run


def _built_pack(folder: Path, merchants: int) -> Path:
    from seg1a.inputs.pack import build_pack

    build_pack(folder, merchants, CHECKOUT / "reference", CHECKOUT / "policies", "test")
    return folder


@pytest.fixture(scope="session")
def small_pack(tmp_path_factory) -> Path:
    """A pack of 400 merchants: one shard."""
    return _built_pack(tmp_path_factory.mktemp("packs") / "small", 400)


@pytest.fixture(scope="session")
def tiny_pack(tmp_path_factory) -> Path:
    """A pack of 60 merchants, for runs that are killed by the dozen."""
    return _built_pack(tmp_path_factory.mktemp("packs") / "tiny", 60)


@pytest.fixture(scope="session")
def sharded_pack(tmp_path_factory) -> Path:
    """A pack of 70 000 merchants: three shards, so that the number of workers can matter."""
    return _built_pack(tmp_path_factory.mktemp("packs") / "sharded", 70_000)


@pytest.fixture(scope="session")
def in_process_run(seg1a, sharded_pack, tmp_path_factory) -> Path:
    """The root of a run without notebooks, by one worker, with every setting as it is: what other runs are compared with."""
    return run_root(seg1a("run", "--pack", sharded_pack, "--output-dir", tmp_path_factory.mktemp("in-process"), "--no-notebooks", "--workers", "1", *FLAGS, *LANES))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """A real S3 server on the loopback interface, for the whole session."""
    from store_support import S3Server

    server = S3Server(tmp_path_factory.mktemp("s3"))
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["file", "s3"])
def places(request, tmp_path, monkeypatch):
    """Places of both kinds: what holds in a bucket holds in a folder."""
    from store_support import Places

    server = request.getfixturevalue("s3_server") if request.param == "s3" else None
    for name, value in (server.environment() if server else {}).items():
        monkeypatch.setenv(name, value)
    return Places(request.param, tmp_path, server)


@pytest.fixture(scope="session")
def passed_run(small_pack, tmp_path_factory) -> Path:
    """The root of a run of 400 merchants that passed; its seed is beyond 2^63. Read only."""
    from seg1a.core.run import Options
    from seg1a.operations.pipeline import RunRequest, run_pipeline

    request = RunRequest(small_pack, tmp_path_factory.mktemp("passed"), 2**63 + 7, "ab" * 20, 1_700_000_000_000_000_000, Options(notebooks=False))
    summary = run_pipeline(request)
    assert summary["gate"]["status"] == "PASS", summary["run"]["failure"]
    return Path(summary["output_dir"])
