"""What the tests of crashes share: commands that can be killed, and what a run must be afterwards."""

import atexit
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from prepared import _command, _context
from run_support import FLAGS, LANES, UNSEALED, last_line, sealed_files

from seg1a.core.gates import verify_bundle

HERE = Path(__file__).resolve().parent
RUN = ("run", *FLAGS, *LANES, "--workers", "1", "--quiet")
IN_PROCESS = ("--no-notebooks",)


def _life(arguments, environment, outputs, program=None) -> None:
    tempfile.tempdir = None  # so that TMPDIR counts
    _command(arguments, None, environment, outputs, program)


_started: list = []


@atexit.register
def _end() -> None:
    """A test that failed may have left a command that stands still; nobody waits for it."""
    for process in _started:
        if process.is_alive():
            process.kill()


class Command:
    """`seg1a`, or a program that is given, in a copy of the prepared process, under way."""

    def __init__(self, *arguments, stdout: str | None = None, program: str | None = None, **environment):
        self.arguments, self._folder = list(map(str, arguments)), tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        for path in self._outputs:
            path.touch()
        if stdout is not None:
            self._outputs[0] = Path(stdout)
        self.process = _context().Process(target=_life, args=(self.arguments, dict(os.environ) | environment, tuple(map(str, self._outputs)), program))
        self.process.start()
        self.pid = self.process.pid
        _started.append(self.process)

    def done(self, timeout: float = 600) -> subprocess.CompletedProcess:
        """Wait for its end."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        return subprocess.CompletedProcess(self.arguments, self.process.exitcode, *("" if path.is_char_device() else path.read_text() for path in self._outputs))

    def stderr(self) -> str:
        """What it has said so far."""
        return self._outputs[1].read_text()

    def until(self, happened, seconds: float = 120) -> None:
        """Wait until something happened, while the command lives."""
        limit = time.monotonic() + seconds
        while not happened():
            assert self.process.is_alive() and time.monotonic() < limit, self.stderr()[-3000:]
            time.sleep(0.01)

    def stopped(self) -> bool:
        """It stands still (SIGSTOP)."""
        status = Path(f"/proc/{self.pid}/status")
        return self.process.is_alive() and re.search(r"^State:\s+T", status.read_text(), re.MULTILINE) is not None


def run(pack: Path, output: Path, *more, **environment) -> subprocess.CompletedProcess:
    """A whole run, or what is left of it."""
    return Command(*RUN, "--pack", pack, "--output-dir", output, *more, **environment).done()


def resume(root: Path, *more, **environment) -> subprocess.CompletedProcess:
    return Command("run", "--resume", root, "--quiet", *more, **environment).done()


def roots(output: Path) -> list[Path]:
    """The run roots that were claimed."""
    return sorted(path.parent for path in output.glob("parameter_hash=*/run_id=*/run_root.json"))


def sealed(root: Path) -> dict[str, str]:
    """Every file of a run that must not depend on what happened to it."""
    return {name: digest for name, digest in sealed_files(root).items() if not name.startswith((*UNSEALED, "_quarantine/"))}


def data(files: dict[str, str]) -> dict[str, str]:
    """Of sealed files those that a run with notebooks and one without have in common."""
    return {name: digest for name, digest in files.items() if name.startswith(("parameter_scoped/", "logs/"))}


def temporaries(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("_tmp*")]


def went_on(pack: Path, output: Path, *more, **environment) -> Path:
    """Continue what died in `output`, by the means that an operator has; the root. A run that verifies needs no more than that."""
    there = roots(output)
    if there:
        (root,) = there
        before = verify_bundle(root)
        done = resume(root, **environment)
    else:
        before, done = None, run(pack, output, *more, **environment)
    assert done.returncode == 0 and last_line(done).startswith("PASS"), (last_line(done), done.stderr[-3000:])
    (root,) = roots(output)
    assert before is None or not before.passed or before == verify_bundle(root), "a flag that verified was on an incomplete run"
    return root


def check_whole(root: Path, undisturbed: dict[str, str]) -> None:
    """The run is what it would have been, and nothing lies about."""
    output = root.parents[1]
    assert verify_bundle(root).passed and (output / "latest").resolve() == root.resolve()
    mine = sealed(root)
    assert [name for name in mine.keys() | undisturbed.keys() if mine.get(name) != undisturbed.get(name)] == []
    assert temporaries(output) == [] and not (root / "logs/telemetry/run.lock").exists()
    assert {path.name for path in output.iterdir()} == {"latest", root.parent.name}


def told_to(done: subprocess.CompletedProcess) -> list[str]:
    """The words of the command that stderr names for going on, without the program."""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("seg1a: to go on: ")]
    return shlex.split(line.partition("to go on: ")[2])[1:]


def kernels_of(pid: int) -> list[int]:
    """Processes below a process, by what /proc says."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
        except (OSError, IndexError):
            continue
    below, found = {pid}, []
    while more := [child for child, parent in parents.items() if parent in below and child not in below]:
        below.update(more)
        found += more
    return found


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
