"""Kernels as forks of a zygote: what they find, and that nobody is left behind, whoever is killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from crash_support import Command

from seg1a.core.errors import Seg1aError
from seg1a.operations.audit import cell_seconds, execute_notebook
from seg1a.operations.kernel import start_kernel
from seg1a.operations.pipeline import STATE_MODULES
from seg1a.operations.zygote import KERNEL_ENVIRONMENT, PREPARATIONS, Zygote

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
PATIENCE = 60.0  # seconds until something that must happen is said not to have happened


def alive(pid: int) -> bool:
    """Whether there is such a process, and no zombie of one."""
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def until(condition) -> bool:
    """Wait until a condition holds; False when it never does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def zygote():
    made = Zygote(["ipykernel.kernelapp"])
    yield made
    made.close()
    assert not alive(made.pid) and not made.folder.exists()


@pytest.fixture
def notebook(tmp_path):
    """`notebook(source)`: a run notebook with one parameter and one cell."""

    def write(source: str) -> Path:
        cells = [{"cell_type": "code", "id": name, "metadata": {"tags": tags}, "execution_count": None, "outputs": [], "source": text}
                 for name, tags, text in (("a", ["parameters"], 'told: str = ""'), ("b", [], source))]
        spec = {"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}}
        path = tmp_path / "example.ipynb"
        path.write_text(json.dumps({"cells": cells, "metadata": spec, "nbformat": 4, "nbformat_minor": 5}))
        return path

    return write


def execute(path: Path, kernel, **options) -> dict:
    return execute_notebook(path, {"told": str(path.parent / "told.json")}, kernel, path.with_name("raw.ipynb"), **options)


TELL = "import json, os, sys, threading; open(told, 'w').write(json.dumps({}))"


def told(path: Path, kernel, what: str):
    """The value of an expression in a kernel."""
    execute(path(TELL.format(what)), kernel)
    return json.loads((path("").parent / "told.json").read_text())


# ---- what a kernel finds

def test_the_environment_is_that_of_a_kernel_of_its_own(zygote, notebook, monkeypatch):
    monkeypatch.setenv("SEG1A_TEST_WORD", "inherited")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere.py")
    kernel = start_kernel(zygote, "json", {"SEG1A_WORKERS": "3", "COLUMNS": "7"})
    found = told(notebook, kernel, "dict(os.environ)")
    expected = {name: value for name, value in os.environ.items() if name != "PYTHONSTARTUP"} | {"SEG1A_WORKERS": "3"} | KERNEL_ENVIRONMENT | {"IPYTHONDIR": str(kernel.folder)}
    for name in ("TERM", "CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR", "PAGER", "GIT_PAGER", "PYDEVD_USE_FRAME_EVAL"):  # ipykernel's own
        expected.pop(name, None)
        found.pop(name, None)
    assert found == expected


def test_a_kernel_is_a_fork_in_a_session_and_a_folder_of_its_own(zygote, notebook):
    zygote.prepare(["fractions", "no.such.module", "json:no_such_function"])
    kernel = start_kernel(zygote, "fractions", {})
    found = told(notebook, kernel, "[os.getppid(), os.getsid(0) == os.getpid(), os.getcwd(), 'fractions' in sys.modules, sys.flags.hash_randomization]")
    assert found == [zygote.pid, True, str(kernel.folder), True, 0]
    assert not kernel.folder.exists(), "its folder goes with it"


def test_what_one_kernel_does_no_other_sees(zygote, notebook):
    first, second = (start_kernel(zygote, "json", {"SEG1A_NUMBER": number}) for number in "12")
    assert told(notebook, first, "(setattr(json, 'spoiled', 1), os.environ.pop('SEG1A_NUMBER'))[1]") == "1"
    assert told(notebook, second, "[hasattr(json, 'spoiled'), os.environ['SEG1A_NUMBER']]") == [False, "2"]


def test_all_preparations_together_start_no_thread():
    """A process with threads must not be forked: this is what the whole arrangement stands on."""
    program = "from seg1a.operations.zygote import *\nfor what in PREPARATIONS:\n    prepare(what)\nimport sys; print(thread_count(), may_fork(), sum(m.startswith('seg1a.states.') for m in sys.modules))"
    environment = os.environ | KERNEL_ENVIRONMENT | {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    threads, may, states = done.stdout.split()
    assert (threads, may) == ("1", "True") and int(states) > 20, done.stderr


def test_the_preparations_are_there_and_hold_every_state():
    import importlib

    assert set(STATE_MODULES) <= set(PREPARATIONS)
    for what in PREPARATIONS:
        module, _, function = what.partition(":")
        assert not function or callable(getattr(importlib.import_module(module), function)), what


@pytest.mark.parametrize("what", ["threading:active_count", "tests_of_seg1a:hold_a_thread"])
def test_a_zygote_with_threads_starts_a_new_interpreter_instead(zygote, notebook, what, tmp_path, monkeypatch):
    (tmp_path / "tests_of_seg1a.py").write_text("import threading\ndef hold_a_thread():\n    threading.Thread(target=threading.Event().wait, daemon=True).start()\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    other = Zygote(["ipykernel.kernelapp", what, "fractions"])
    kernel = start_kernel(other, "fractions", {"SEG1A_WORKERS": "5"})
    process = kernel.manager.provisioner.process
    found = told(notebook, kernel, "[os.getppid(), os.environ['SEG1A_WORKERS'], os.environ['TZ'], 'fractions' in sys.modules, os.getsid(0) == os.getpid()]")
    assert found == [other.pid, "5", "UTC", True, True]
    assert other.report(process.number)["forked"] == (what != "tests_of_seg1a:hold_a_thread")
    other.close()
    assert until(lambda: not alive(process.pid))


# ---- how a notebook can end

@pytest.mark.parametrize("source, options, code", [
    ("1 / 0", {}, "E_NOTEBOOK_CELL"), ("raise SystemExit(3)", {}, "E_NOTEBOOK_CELL"), ("import os; os._exit(0)", {}, "E_NOTEBOOK_KERNEL_LOST"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", {}, "E_NOTEBOOK_KERNEL_LOST"), ("import time; time.sleep(600)", {"timeout": 1}, "E_NOTEBOOK_TIMEOUT"),
    ("import os; os.kill(os.getppid(), 9); import time; time.sleep(600)", {}, "E_NOTEBOOK_KERNEL_LOST"),
])
def test_every_end_has_its_code_and_leaves_no_process(zygote, notebook, source, options, code):
    kernel = start_kernel(zygote, "json", {})
    process = kernel.manager.provisioner.process
    assert until(lambda: process.pid is not None)
    with pytest.raises(Seg1aError) as caught:
        execute(notebook(source), kernel, **options)
    assert caught.value.code == code
    assert until(lambda: not alive(process.pid)) and not kernel.folder.exists()
    assert source[:20] in notebook("").with_name("raw.ipynb").read_text(), "what was executed is kept, whatever the end"


def test_a_kernel_that_cannot_be_ordered_is_a_lost_one(zygote, notebook):
    os.kill(zygote.pid, signal.SIGKILL)
    with pytest.raises(Seg1aError) as caught:
        execute(notebook("1"), start_kernel(zygote, "json", {}))
    assert caught.value.code == "E_NOTEBOOK_KERNEL_LOST"


def test_a_kernel_killed_from_outside_is_seen_and_its_sibling_lives(zygote, notebook):
    first, second = (start_kernel(zygote, "json", {}) for _ in range(2))
    processes = [kernel.manager.provisioner.process for kernel in (first, second)]
    assert until(lambda: all(process.pid for process in processes))
    os.kill(processes[0].pid, signal.SIGKILL)
    assert processes[0].wait(PATIENCE) == -signal.SIGKILL and processes[1].poll() is None
    assert told(notebook, second, "'alive'") == "alive"
    first.stop()


def test_what_a_kernel_started_dies_with_it(zygote, notebook, tmp_path):
    kernel = start_kernel(zygote, "json", {})
    process = kernel.manager.provisioner.process
    with pytest.raises(Seg1aError):
        execute(notebook("import subprocess, time; child = subprocess.Popen(['sleep', '600']); open(told, 'w').write(str(child.pid)); time.sleep(600)"), kernel, timeout=2)
    grandchild = int((tmp_path / "told.json").read_text())
    assert until(lambda: not alive(grandchild) and not alive(process.pid))


def test_seconds_of_a_cell(zygote, notebook):
    executed = execute(notebook("import time; time.sleep(0.3)"), start_kernel(zygote, "json", {}))
    assert 0.3 <= cell_seconds(executed, "time.sleep(") and cell_seconds(executed, "run_s1(") == 0.0


# ---- whole runs, with one of the three processes killed in the middle

def family(pid: int) -> set[int]:
    """The living descendants of a process."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            parents[int(status.parent.name)] = int(fields[1])
        except OSError:
            pass
    found, waiting = set(), [pid]
    while waiting:
        children = {child for child, parent in parents.items() if parent == waiting[-1]} - found
        waiting.pop()
        found |= children
        waiting.extend(children)
    return {child for child in found if alive(child)}


@pytest.fixture
def running(small_pack, tmp_path):
    """A run that has reached S1: (command, its zygote, its kernels, its folder for temporary files)."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    run = Command("run", "--pack", small_pack, "--output-dir", tmp_path / "out", "--seed", "7", TMPDIR=str(scratch))
    run.until(lambda: "\nS1" in run.stderr())
    assert until(lambda: len(family(run.pid)) >= 3)
    (zygote,) = [pid for pid in family(run.pid) if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == str(run.pid)]
    kernels = family(zygote)
    yield run, zygote, kernels, scratch
    run.process.kill()
    run.done()


# A killed kernel and SIGTERM are met in test_crash.py and test_faults.py every time.
@pytest.mark.parametrize("victim", [pytest.param("kernel", marks=pytest.mark.slow), "zygote"])
def test_a_run_that_loses_a_process_fails_with_evidence_and_without_orphans(running, victim, tmp_path):
    run, zygote, kernels, scratch = running
    os.kill(min(kernels) if victim == "kernel" else zygote, signal.SIGKILL)
    done = run.done(PATIENCE)
    assert done.returncode == 1 and re.match("FAIL E_NOTEBOOK_KERNEL_LOST", done.stdout.splitlines()[-1]), done.stdout + done.stderr
    assert until(lambda: not any(alive(pid) for pid in {zygote, *kernels}))
    (record,) = (tmp_path / "out").rglob("failure.json")
    assert json.loads(record.read_text())["error_code"] == "E_NOTEBOOK_KERNEL_LOST"
    assert not list((tmp_path / "out").glob("*/*/validation_bundle/*/_passed.flag"))
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_killed_runner_takes_everybody_with_it(running, number):
    run, zygote, kernels, scratch = running
    os.kill(run.pid, number)
    assert run.done(PATIENCE).returncode != 0
    assert until(lambda: not any(alive(pid) for pid in {zygote, *kernels}))
    assert until(lambda: [path.name for path in scratch.iterdir() if path.name.startswith("seg1a-") and not path.name.startswith("seg1a-run-")] == [])


def test_no_client_of_a_dead_kernel_is_left_to_the_garbage_collector(zygote):
    kernel = start_kernel(zygote, "json", {})
    client = kernel.manager.client()
    client.start_channels(hb=False)
    client.kernel_info()  # which nobody will take
    kernel.manager.provisioner.process.kill()
    kernel.stop()
    assert client.context.closed and not client.channels_running


def test_a_temporary_folder_may_be_deep(notebook, tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = set(Path("/tmp").glob("seg1a-k*"))
    made = Zygote(["ipykernel.kernelapp"])
    assert made.folder.is_relative_to(deep) and told(notebook, start_kernel(made, "json", {}), "'alive'") == "alive"
    made.close()
    assert list(deep.iterdir()) == [] and until(lambda: set(Path("/tmp").glob("seg1a-k*")) <= before)  # those of neighbours come and go


@pytest.mark.slow
def test_a_temporary_folder_may_be_deep_for_a_whole_run(small_pack, tmp_path):
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    before = set(Path("/tmp").glob("seg1a-k*"))
    command = [sys.executable, "-m", "seg1a", "run", "--pack", str(small_pack), "--output-dir", str(tmp_path / "out"), "--seed", "7", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(deep)}, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(deep.iterdir()) == [] and until(lambda: set(Path("/tmp").glob("seg1a-k*")) <= before)  # those of neighbours come and go


def test_closing_ends_what_still_lives_and_may_be_repeated(zygote):
    kernel = start_kernel(zygote, "json", {})
    assert until(lambda: kernel.manager.provisioner.process.pid is not None)
    pid = kernel.manager.provisioner.process.pid
    with pytest.raises(subprocess.TimeoutExpired):
        kernel.manager.provisioner.process.wait(0.1)
    zygote.close()
    zygote.close()
    assert until(lambda: not alive(pid))
    shutil.rmtree(kernel.folder, ignore_errors=True)
