"""A disk that fills, fails or goes away, memory that runs out, a signal: a code, no half-written file, and the run goes on."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from crash_support import IN_PROCESS, RUN, Command, check_whole, data, kernels_of, resume, roots, run, sealed, temporaries, told_to, went_on
from run_support import last_line, run_root

from seg1a.core.errors import code_table
from seg1a.core.gates import verify_bundle

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")


@pytest.fixture(scope="module")
def undisturbed(tiny_pack, tmp_path_factory) -> Path:
    return run_root(run(tiny_pack, tmp_path_factory.mktemp("whole") / "out", *IN_PROCESS))


@pytest.fixture(scope="module")
def whole(undisturbed) -> dict[str, str]:
    return sealed(undisturbed)


@contextmanager
def small_disk(place: Path, size: int):
    """A file system of `size` bytes at `place`; yields a function that gives it another size or mode."""
    place.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "seg1a-test", place], capture_output=True).returncode:
        pytest.skip("this container may not mount a tmpfs")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def failed_cleanly(done, *codes: str) -> str:
    """The command failed with a code, on one line, without a traceback; the code."""
    words = last_line(done).split()
    assert done.returncode == 1 and words[0] == "FAIL" and words[1] in code_table(), (done.returncode, done.stdout, done.stderr[-3000:])
    assert "Traceback" not in done.stderr and (not codes or words[1] in codes), done.stderr[-3000:]
    return words[1]


def never_passed(output: Path) -> bool:
    return not any(verify_bundle(root).passed for root in roots(output)) and temporaries(output) == []


# ---- a disk that fills ----------------------------------------------------------------------------------------------


def room_needed(root: Path) -> int:
    """What a run takes on a tmpfs: whole pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in root.rglob("*") if path.is_file())


def filled_then_resumed(pack: Path, place: Path, size: int, whole: dict[str, str]) -> str | None:
    """A run on a disk of `size` bytes; when that was too small, it goes on with more room. The code that it failed with."""
    with small_disk(place, size) as remount:
        done = run(pack, place / "out", *IN_PROCESS)
        code = failed_cleanly(done) if done.returncode else None
        if code:
            # what verifies is complete: then the disk was full when there was only the summary to write
            assert never_passed(place / "out") or (sealed(roots(place / "out")[0]) == whole and temporaries(place) == [])
            remount("size=256m")
            again = Command(*told_to(done), "--quiet").done()
            assert again.returncode == 0, again.stderr[-3000:]
        check_whole(roots(place / "out")[0], whole)
        return code


@root_only
@pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
def test_a_disk_that_fills(tiny_pack, tmp_path, undisturbed, whole, share):
    assert filled_then_resumed(tiny_pack, tmp_path / "disk", int(share * room_needed(undisturbed)), whole) is not None


@root_only
@pytest.mark.slow
def test_disks_of_twenty_sizes(tiny_pack, tmp_path, undisturbed, whole):
    needed = room_needed(undisturbed)
    codes = [filled_then_resumed(tiny_pack, tmp_path / f"disk-{i}", max(needed * i // 19, 8192), whole) for i in range(20)]
    print(f"room needed {needed:,} bytes; codes {codes}")
    assert sum(code is not None for code in codes) >= 17


# ---- a disk that is read-only, goes away, or has errors -------------------------------------------------------------


@root_only
def test_a_folder_that_becomes_read_only(tiny_pack, tmp_path, whole):
    with small_disk(tmp_path / "disk", 1 << 28) as remount:
        output = tmp_path / "disk" / "out"
        assert run(tiny_pack, output, *IN_PROCESS, SEG1A_FAULT="kill:1:S3 begins").returncode == -signal.SIGKILL
        (root,) = roots(output)
        remount("ro")
        refused = run(tiny_pack, output, *IN_PROCESS)
        assert refused.returncode == 2 and last_line(refused).startswith("FAIL E_USAGE --output-dir"), refused.stderr[-2000:]
        failed_cleanly(resume(root), "E_WRITE_FAIL")
        remount("rw")
        check_whole(went_on(tiny_pack, output), whole)


def test_a_folder_that_vanishes(tiny_pack, tmp_path):
    command = Command(*RUN, *IN_PROCESS, "--pack", tiny_pack, "--output-dir", tmp_path / "out", SEG1A_FAULT="stop:1:S3 begins")
    command.until(command.stopped)
    shutil.rmtree(tmp_path / "out")
    os.kill(command.pid, signal.SIGCONT)
    failed_cleanly(command.done())
    assert roots(tmp_path / "out") == [] and temporaries(tmp_path) == []


KINDS = ["write a block", "read a block", "staged *", "flushed *", "named *", "grown *"]


def broken_by(order: str, pack: Path, output: Path, whole: dict[str, str]) -> str:
    """A run in which the system fails once; then it goes on, if it was interrupted and did not fail. The code."""
    done = run(pack, output, *IN_PROCESS, SEG1A_FAULT=order)
    code = failed_cleanly(done)
    assert temporaries(output) == []
    there = roots(output)
    if "to go on" in done.stderr:
        assert Command(*told_to(done), "--quiet").done().returncode == 0
        check_whole(roots(output)[0], whole)
    elif there:
        assert resume(there[0]).returncode in (1, 2)
    return code


@pytest.mark.parametrize("order", ["eio:1:named */s3_candidate_set.parquet"])
def test_a_disk_with_errors(tiny_pack, tmp_path, whole, order):
    broken_by(order, tiny_pack, tmp_path / "out", whole)


@pytest.fixture(scope="module")
def points(tiny_pack, tmp_path_factory) -> list[str]:
    """Every point that a run passes, in order."""
    folder = tmp_path_factory.mktemp("points")
    run_root(run(tiny_pack, folder / "out", *IN_PROCESS, SEG1A_FAULT=f"list:{folder}/points:"))
    return (folder / "points").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_with_errors_anywhere(tiny_pack, tmp_path, whole, points, kind):
    passed = sum(fnmatchcase(point, kind) for point in points) * (9 if kind.startswith("read") else 10) // 10  # threads read more or fewer times
    codes = {nth: broken_by(f"eio:{nth}:{kind}", tiny_pack, tmp_path / str(nth), whole) for nth in sorted({1 + i * (passed - 1) // 3 for i in range(4)})}
    print(f"{kind}: {codes}")


def test_a_full_disk_behind_the_output(undisturbed):
    done = Command("verify", undisturbed, stdout="/dev/full").done()
    assert done.returncode == 1 and f"E_SYSTEM_IO: {os.strerror(errno.ENOSPC)}" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_the_output_of_a_process_of_its_own(undisturbed, unbuffered):
    """What is left in the buffer is tried again when the interpreter ends; with `PYTHONUNBUFFERED` nothing is left."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "seg1a", "verify", undisturbed], stdout=full, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == 1 and f"E_SYSTEM_IO: {os.strerror(errno.ENOSPC)}" in done.stderr and "ignored" not in done.stderr


# ---- signals --------------------------------------------------------------------------------------------------------


def test_signals_stop_a_run_in_order(tiny_pack, tmp_path, whole):
    """One after the other: each stops what goes on from the one before, by the command that it was told."""
    command = (*RUN, *IN_PROCESS, "--pack", tiny_pack, "--output-dir", tmp_path / "out")
    for signum, order in ((signal.SIGHUP, "hup:1:root: made"), (signal.SIGTERM, "term:2:grown rng_trace_log.jsonl"), (signal.SIGINT, "int:1:S4 begins")):
        done = Command(*command, SEG1A_FAULT=order).done()
        assert (done.returncode, last_line(done)) == (128 + signum, f"FAIL E_STOPPED stopped by {signum.name}") and "Traceback" not in done.stderr
        assert never_passed(tmp_path / "out") and not list((tmp_path / "out").rglob("failure.json")) and not list((tmp_path / "out").rglob("run.lock"))
        command = told_to(done)
    assert Command(*command, "--quiet").done().returncode == 0
    check_whole(roots(tmp_path / "out")[0], whole)


def stopped_with_notebooks(pack: Path, folder: Path, signum: int, state: int) -> Path:
    (folder / "tmp").mkdir()
    command = Command(*[word for word in RUN if word != "--quiet"], "--pack", pack, "--output-dir", folder / "out", TMPDIR=str(folder / "tmp"))
    command.until(lambda: f"S{state} " in command.stderr() and len(kernels_of(command.pid)) >= 2)  # before S0 begins there is only what makes kernels
    below = kernels_of(command.pid)
    os.kill(command.pid, signum)
    done = command.done()
    assert done.returncode == 128 + signum and "Traceback" not in done.stderr, done.stderr[-3000:]
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
    assert list((folder / "tmp").glob("seg1a-*")) == [] and never_passed(folder / "out")
    assert Command(*told_to(done), "--quiet").done().returncode == 0
    return roots(folder / "out")[0]


def test_a_signal_ends_the_kernels_too(tiny_pack, tmp_path, whole):
    root = stopped_with_notebooks(tiny_pack, tmp_path, signal.SIGTERM, 2)
    assert verify_bundle(root).passed and data(sealed(root)) == data(whole)


@pytest.mark.slow
@pytest.mark.parametrize("state", [0, 1, 4])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signals_in_every_state(tiny_pack, tmp_path, signum, state):
    assert verify_bundle(stopped_with_notebooks(tiny_pack, tmp_path, signum, state)).passed


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_a_kernel_without_memory(tiny_pack, tmp_path):
    done = run(tiny_pack, tmp_path / "out", SEG1A_FAULT="memory:1:named */rng_audit_log.jsonl")
    failed_cleanly(done, "E_OUT_OF_MEMORY", "E_NOTEBOOK_KERNEL_LOST")
    assert never_passed(tmp_path / "out") and verify_bundle(went_on(tiny_pack, tmp_path / "out")).passed


@pytest.mark.slow
@pytest.mark.parametrize("point", ["S1 begins", "named */part-s1-00000.jsonl", "read a block", "named */s3_eligibility.parquet", "S4 ended"])
def test_a_run_without_memory(tiny_pack, tmp_path, whole, point):
    done = run(tiny_pack, tmp_path / "out", *IN_PROCESS, SEG1A_FAULT=f"memory:1:{point}")
    if done.returncode > 0:
        failed_cleanly(done)
    if "to go on" in done.stderr:
        check_whole(went_on(tiny_pack, tmp_path / "out"), whole)
