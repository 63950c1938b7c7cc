"""`seg1a run --resume`: only as the same run, only by one process, only what was interrupted."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from crash_support import IN_PROCESS, RUN, Command, check_whole, resume, roots, run, sealed, told_to
from run_support import last_line, run_root

from seg1a.core.lock import LOCK_FILE, lock_owner, lock_run
from seg1a.operations.progress import finished_states

STOPPED_IN_S2 = "stop:1:named */s2_nb_catalogue.json"
KILLED_IN_S2 = "kill:1:named */s2_nb_catalogue.json"


@pytest.fixture(scope="module")
def undisturbed(tiny_pack, tmp_path_factory) -> Path:
    """A finished run. Read only."""
    return run_root(run(tiny_pack, tmp_path_factory.mktemp("whole") / "out", *IN_PROCESS))


@pytest.fixture(scope="module")
def interrupted(tiny_pack, tmp_path_factory) -> Path:
    """The output folder of a run that was killed in S2. Copy before use."""
    output = tmp_path_factory.mktemp("interrupted") / "out"
    assert run(tiny_pack, output, *IN_PROCESS, SEG1A_FAULT=KILLED_IN_S2).returncode == -signal.SIGKILL
    return output


@pytest.fixture
def broken(interrupted, tmp_path) -> Path:
    """The root of a run that was killed in S2, for one test alone."""
    shutil.copytree(interrupted, tmp_path / "out", symlinks=True)
    (root,) = roots(tmp_path / "out")
    return root


def everything(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def refused(done, code: str) -> bool:
    return (done.returncode, last_line(done).split()[:2]) == (2, ["FAIL", code]) and "Traceback" not in done.stderr


def test_a_finished_run_is_verified_and_left_alone(undisturbed):
    before = everything(undisturbed)
    done = resume(undisturbed)
    assert (done.returncode, last_line(done)) == (0, f"PASS {undisturbed}") and everything(undisturbed) == before


def test_a_sealed_run_that_lacks_its_summary_gets_it(undisturbed, tmp_path):
    shutil.copytree(undisturbed.parents[1], tmp_path / "out", symlinks=True)
    (root,) = roots(tmp_path / "out")
    (root / "run_summary.json").unlink(), (tmp_path / "out" / "latest").unlink()
    assert resume(root).returncode == 0
    check_whole(root, sealed(undisturbed))
    assert json.loads((root / "run_summary.json").read_text())["gate"]["status"] == "PASS"


@pytest.mark.parametrize(("flags", "said"), [
    (("--seed", "1"), "seed"),  # which is the default, and still not the run's
    (("--start-time-ns", "5"), "start_time_ns"),
    (("--git-commit", "cd" * 20), "git_commit"),
    (("--no-s3-priors",), "s3_priors"),
    (("--no-diagnostics",), "diagnostics"),
    (("--no-validate-s3",), "validate"),
    (("--output-dir", "elsewhere"), "--output-dir"),
])
def test_another_flag_is_another_run(interrupted, flags, said):
    (root,) = roots(interrupted)
    before = everything(root)
    done = resume(root, *flags)
    assert refused(done, "E_RESUME_MISMATCH") and said in done.stderr and everything(root) == before


def test_flags_that_the_run_was_begun_with_may_be_repeated(interrupted, small_pack):
    (root,) = roots(interrupted)
    done = resume(root, *RUN[1:-1], *IN_PROCESS, "--pack", small_pack)  # of the pack alone it is another run
    assert refused(done, "E_RESUME_MISMATCH") and "pack" in done.stderr


def test_inputs_cannot_be_laid_over_a_run(interrupted, tiny_pack):
    (root,) = roots(interrupted)
    (policy,) = tiny_pack.rglob("policy.s4.hyperparams.yaml")
    assert refused(resume(root, "--param", f"{policy.name}={policy}"), "E_USAGE")


def test_other_code_is_refused(broken):
    from seg1a.operations.progress import recorded_request, write_protected

    facts = recorded_request(broken)
    write_protected(broken / "logs/telemetry/run_request.json", {"version": "1A.run_request.v1", **facts, "code_digest": "0" * 64})
    done = resume(broken)
    assert refused(done, "E_RESUME_MISMATCH") and "begun by code" in done.stderr


@pytest.mark.parametrize("damage", ["edited", "cut", "gone"])
def test_a_damaged_record_is_refused(broken, damage):
    record = broken / "logs/telemetry/run_request.json"
    whole = record.read_bytes()
    record.unlink() if damage == "gone" else record.write_bytes(whole.replace(b'"seed":7', b'"seed":8') if damage == "edited" else whole[:-20])
    assert refused(resume(broken), "E_RESUME_RECORD")


def test_a_folder_that_is_no_root_is_refused(tmp_path):
    assert refused(resume(tmp_path), "E_ROOT_NOT_FOUND")


def test_a_failed_run_is_refused_with_its_reason(small_pack, tmp_path):
    (policy,) = small_pack.rglob("validation_policy.yaml")
    (tmp_path / policy.name).write_text(policy.read_text().replace("rho_reject_max: 0.06", "rho_reject_max: 0.0001"))
    done = run(small_pack, tmp_path / "out", *IN_PROCESS, "--validation-policy", tmp_path / policy.name)
    assert done.returncode == 1 and "to go on" not in done.stderr
    code = last_line(done).split()[1]
    (root,) = roots(tmp_path / "out")
    before = everything(root)
    done = resume(root)
    assert refused(done, "E_RESUME_FAILED") and code in done.stderr and everything(root) == before


SPOILT = ("parameter_scoped/*/hurdle_design_matrix.parquet", "logs/rng/events/*/*/*/*/part-s1-00000.jsonl", "validation/*/*/s1/summary.json", "validation_bundle/*/s1_hurdle/report.json",
          "validation_bundle/*/s1_hurdle/_passed.flag", "logs/telemetry/progress/s1.json", "validation/*/_passed.flag", "logs/rng/trace/*/*/*/rng_trace_log.jsonl")


def test_nothing_counts_as_finished_that_changed(broken, tiny_pack):
    """A byte of what S0 or S1 left is another: the state does not count, nor do those after it."""
    assert finished_states(broken, tiny_pack).states == 2
    for spoilt in SPOILT:
        (path,) = broken.glob(spoilt)
        data = path.read_bytes()
        path.write_bytes(data[:3] + bytes([data[3] ^ 1]) + data[4:])
        assert finished_states(broken, tiny_pack).states == (0 if "progress" not in spoilt and ("hurdle_design" in spoilt or spoilt == "validation/*/_passed.flag") else 1), spoilt
        path.write_bytes(data)


def test_what_changed_is_made_again(broken, undisturbed):
    (path,) = broken.glob("parameter_scoped/*/hurdle_design_matrix.parquet")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert resume(broken).returncode == 0
    check_whole(broken, sealed(undisturbed))


def test_strangers_in_an_unfinished_root_are_removed(broken, undisturbed, tmp_path):
    (tmp_path / "outside").write_text("mine")
    (broken / "parameter_scoped" / "more").write_text("x")
    (broken / "validation" / "link").symlink_to(tmp_path / "outside")
    (broken / "linked").symlink_to(tmp_path)
    assert resume(broken).returncode == 0 and (tmp_path / "outside").read_text() == "mine"
    check_whole(broken, sealed(undisturbed))


def test_the_clock_may_have_been_set_back(broken, undisturbed):
    """Every file of the run is of the year 2100, and its start time is recorded: no clock is asked."""
    for path in broken.rglob("*"):
        os.utime(path, (4_102_444_800, 4_102_444_800))
    assert resume(broken, "--workers", "2").returncode == 0
    check_whole(broken, sealed(undisturbed))


# ---- one at a time --------------------------------------------------------------------------------------------------


def test_a_living_run_is_not_resumed(tiny_pack, tmp_path, undisturbed):
    alive = Command(*RUN, *IN_PROCESS, "--pack", tiny_pack, "--output-dir", tmp_path / "out", SEG1A_FAULT=STOPPED_IN_S2)
    alive.until(alive.stopped)
    (root,) = roots(tmp_path / "out")
    done = resume(root)
    assert refused(done, "E_RUN_LOCKED") and f"process {alive.pid} on {os.uname().nodename}" in done.stderr and lock_owner(root)["pid"] == alive.pid
    os.kill(alive.pid, signal.SIGCONT)
    assert alive.done().returncode == 0
    check_whole(root, sealed(undisturbed))


def test_a_stale_lock_holds_nobody_up(broken, undisturbed):
    """What stands in the file is no proof of life, not even the number of a process that lives; nor need it be whole."""
    owner = {"pid": os.getpid(), "host": os.uname().nodename, "since_utc_ns": 0, "processes": None}
    for text in (json.dumps(owner), "half a li"):
        (broken / LOCK_FILE).write_text(text)
        lock_run(broken).release()
    (broken / LOCK_FILE).write_text(json.dumps(owner))
    assert resume(broken).returncode == 0
    check_whole(broken, sealed(undisturbed))


def test_of_two_that_resume_at_once_one_does(broken, undisturbed):
    two = [Command("run", "--resume", broken, "--quiet", SEG1A_FAULT="stop:1:S3 begins") for _ in range(2)]
    limit = time.monotonic() + 120
    while time.monotonic() < limit and not any(command.process.is_alive() and command.stopped() for command in two):
        time.sleep(0.01)
    (loser,) = [command for command in two if not command.stopped()]
    (winner,) = [command for command in two if command is not loser]
    assert refused(loser.done(), "E_RUN_LOCKED")
    os.kill(winner.pid, signal.SIGCONT)
    assert winner.done().returncode == 0
    check_whole(broken, sealed(undisturbed))


def test_two_runs_that_race_for_one_root_get_one_each(tiny_pack, tmp_path, undisturbed):
    two = [Command(*RUN, *IN_PROCESS, "--pack", tiny_pack, "--output-dir", tmp_path / "out", SEG1A_FAULT="stop:1:root: made") for _ in range(2)]
    for command in two:
        command.until(command.stopped)
    for command in two:
        os.kill(command.pid, signal.SIGCONT)
    assert [command.done().returncode for command in two] == [0, 0]
    one, other = roots(tmp_path / "out")
    assert sum(sealed(root) == sealed(undisturbed) for root in (one, other)) == 1  # the other one's start time is a nanosecond later
    assert not list((tmp_path / "out").rglob("_tmp*"))


def test_a_run_that_died_before_it_had_a_root_is_begun_again(tiny_pack, tmp_path, undisturbed):
    (tmp_path / "out").mkdir()
    done = run(tiny_pack, tmp_path / "out", *IN_PROCESS, SEG1A_FAULT="enospc:1:root: made")
    assert done.returncode == 1 and last_line(done).startswith("FAIL E_WRITE_FAIL")
    again = Command(*told_to(done)).done()
    assert again.returncode == 0
    assert sealed(roots(tmp_path / "out")[0]) == sealed(undisturbed)
