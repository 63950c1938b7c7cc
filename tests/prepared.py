"""Commands in copies of one prepared process: what `python -m seg1a` does, less the second that the imports take.

Importing this module imports all that a command may need; the fork server of multiprocessing does so once and forks for every command.
"""

import atexit
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

TIMEOUT = 900
# These are read when Python, numba or the package starts, so they need a start.
AT_START = ("HOME", "LD_", "GLIBC_", "MALLOC_", "NUMBA_", "PYTHON", "SEG1A_CACHE_DIR", "SEG1A_DIRECT_IO")


def _prepare() -> None:
    from seg1a.operations.zygote import PREPARATIONS, may_fork, prepare

    for what in (*PREPARATIONS, "seg1a.operations.cli", "seg1a.operations.cli_store", "seg1a.operations.pipeline", "seg1a.operations.validate", "seg1a.states.foresight", "seg1a.states.s4_corridors"):
        prepare(what)
    assert may_fork(), "a library has started a thread: a copy of this process would miss it"


def _command(arguments: list[str], cwd: str | None, environment: dict[str, str], outputs: tuple[str, str], program: str | None = None) -> None:
    """The life of the copy; with a `program`, what `python -c program` does with the arguments."""
    sys.stdout.flush()
    sys.stderr.flush()
    for stream, name in zip((1, 2), outputs):
        handle = os.open(name, os.O_WRONLY)
        os.dup2(handle, stream)
        os.close(handle)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd or ".")
    from seg1a.operations.cli import main

    sys.argv = ["-c" if program else "seg1a", *arguments]
    try:
        sys.exit(exec(program, {"__name__": "__main__"}) if program else main())
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()  # multiprocessing leaves them out


def _account(path: str) -> None:
    """Leave what this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    Path(path).write_text(f"{used.ru_utime + used.ru_stime} {used.ru_maxrss * 1024}")


def _measured_command(arguments: list[str], cwd: str | None, environment: dict[str, str], outputs: tuple[str, str], account: str, data_limit: int | None) -> None:
    atexit.register(_account, account)
    if data_limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (data_limit, resource.RLIM_INFINITY))
    _command(arguments, cwd, environment, outputs)


def run_forked(arguments: list[str], cwd: str | os.PathLike | None, environment: dict[str, str], data_limit: int | None = None) -> subprocess.CompletedProcess:
    """`seg1a` with these arguments in a copy of the prepared process; `environment` is whole, `data_limit` the bytes that it may allocate.

    The result has two attributes more: `cpu_seconds` and `peak_bytes`, of the copy."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr", "used")]
        for path in outputs:
            path.touch()
        process = _context().Process(target=_measured_command, args=(arguments, cwd and str(cwd), environment, tuple(map(str, outputs[:2])), str(outputs[2]), data_limit))
        process.start()
        process.join(TIMEOUT)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, TIMEOUT)
        done = subprocess.CompletedProcess(arguments, process.exitcode, *(path.read_text(errors="surrogateescape") for path in outputs[:2]))
        done.cpu_seconds, done.peak_bytes = map(float, outputs[2].read_text().split() or (0, 0))
        return done


def _context():
    """The context of the fork server, which is started by its first use."""
    context = multiprocessing.get_context("forkserver")
    if forkserver._forkserver._forkserver_pid is None:
        paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        before = dict(os.environ)
        os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "JE_ARROW_MALLOC_CONF": "background_thread:false", "OMP_NUM_THREADS": "1"}
        try:
            context.set_forkserver_preload(["prepared_now"])
            forkserver.ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(before)
    return context
