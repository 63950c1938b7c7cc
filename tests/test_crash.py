"""`kill -9` anywhere: the run goes on, and ends with the bytes of a run that nothing happened to."""

import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from crash_support import IN_PROCESS, RUN, Command, check_whole, data, kernels_of, kill, roots, run, sealed, temporaries, went_on
from run_support import last_line, run_root

from seg1a.core.gates import verify_bundle
from seg1a.operations.promote import promote


@pytest.fixture(scope="module")
def whole(tiny_pack, tmp_path_factory) -> tuple[dict[str, str], list[str]]:
    """An undisturbed run without notebooks: its sealed files, and every point that it passed, in order."""
    folder = tmp_path_factory.mktemp("undisturbed")
    root = run_root(run(tiny_pack, folder / "out", *IN_PROCESS, SEG1A_FAULT=f"list:{folder}/points:"))
    return sealed(root), (folder / "points").read_text().splitlines()


@pytest.fixture(scope="module")
def whole_with_notebooks(tiny_pack, tmp_path_factory) -> tuple[dict[str, str], list[str]]:
    folder = tmp_path_factory.mktemp("undisturbed-notebooks")
    root = run_root(run(tiny_pack, folder / "out", SEG1A_FAULT=f"list:{folder}/points:"))
    return sealed(root), (folder / "points").read_text().splitlines()


@pytest.fixture
def scratch(tmp_path) -> dict[str, str]:
    """A folder for temporary files of the test's own: what lies there at the end was left by a process."""
    (tmp_path / "tmp").mkdir()
    return {"TMPDIR": str(tmp_path / "tmp")}


# One of each kind, over all states, the seal and what follows it; each kill hits what the one before it left.
CHAINS = {
    "files": ("root: made", "named */rng_audit_log.jsonl", "named */part-s1-00000.jsonl", "named */s2_nb_catalogue.json", "named */s3_candidate_set.parquet", "staged s4/state.json", "latest: made"),
    "states": ("root: named", "S0 ended", "grown rng_trace_log.jsonl", "S3 recorded", "flushed */index.json", "named manifest_fingerprint=*/_passed.flag"),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_killed_at_one_point_after_the_other(tiny_pack, tmp_path, scratch, whole, chain):
    output = tmp_path / "out"
    for point in CHAINS[chain]:
        there = roots(output)
        command = ("run", "--resume", there[0], "--quiet") if there else (*RUN, *IN_PROCESS, "--pack", tiny_pack, "--output-dir", output)
        done = Command(*command, SEG1A_FAULT=f"kill:1:{point}", **scratch).done()
        assert done.returncode == -signal.SIGKILL, (point, done.stdout, done.stderr[-2000:])
        assert not any(verify_bundle(root).passed for root in roots(output)) or sealed(roots(output)[0]) == whole[0]
    check_whole(went_on(tiny_pack, output, *IN_PROCESS, **scratch), whole[0])
    assert list(Path(scratch["TMPDIR"]).glob("seg1a-*")) == []


def killed_and_resumed(pack: Path, folder: Path, scratch: dict[str, str], undisturbed: dict[str, str], order: str, *more) -> None:
    done = run(pack, folder / "out", *more, SEG1A_FAULT=order, **scratch)
    assert done.returncode == -signal.SIGKILL, (order, done.stdout, done.stderr[-2000:])
    check_whole(went_on(pack, folder / "out", *more, **scratch), undisturbed)
    assert list(Path(scratch["TMPDIR"]).glob("seg1a-*")) == []


def passages(points: list[str], count: int) -> list[tuple[str, int]]:
    """`count` passages spread evenly over a run: (pattern of the point, the how-manieth). Of the many reads, of which threads make more or fewer, one in ten."""
    seen, numbered = Counter(), []
    for point in (re.sub("_tmp[.][0-9a-f]+", "_tmp.*", point) for point in points):
        seen[point] += 1
        if point != "read a block" or seen[point] % 10 == 1 and seen[point] < 600:
            numbered.append((point, seen[point]))
    return [numbered[i * len(numbered) // count] for i in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_killed_at_many_points(tiny_pack, tmp_path, scratch, whole, part):
    chosen = passages(whole[1], 64)[part::8]
    for number, (point, nth) in enumerate(chosen):
        killed_and_resumed(tiny_pack, tmp_path / str(number), scratch, whole[0], f"kill:{nth}:{point}", *IN_PROCESS)
        shutil.rmtree(tmp_path / str(number))
    print(f"{len(chosen)} armed kills")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_random_times_again_and_again(tiny_pack, tmp_path, scratch, whole, seed):
    """Ten kills, of the run and of the runs that resume it, at any time."""
    moments, kills, lasted = random.Random(seed), 0, seconds_of_a_run(tiny_pack, tmp_path / "timed")
    while kills < 10:
        output = tmp_path / f"out-{kills}"
        while True:
            there = roots(output)
            command = Command("run", "--resume", there[0], "--quiet", **scratch) if there else Command(*RUN, *IN_PROCESS, "--pack", tiny_pack, "--output-dir", output, **scratch)
            command.process.join(moments.uniform(0, lasted))
            if not command.process.is_alive():
                done = command.done()
                assert done.returncode == 0, done.stderr[-3000:]
                break
            kill(command.pid)
            command.done()
            kills += 1
            assert all(not verify_bundle(root).passed or sealed(root) == whole[0] for root in roots(output))
        check_whole(roots(output)[0], whole[0])
        shutil.rmtree(output)
    print(f"{kills} random kills")


def seconds_of_a_run(pack: Path, output: Path) -> float:
    started = time.monotonic()
    run_root(run(pack, output, *IN_PROCESS))
    shutil.rmtree(output)
    return time.monotonic() - started


# ---- with notebooks: runner, zygote and kernels ---------------------------------------------------------------------


def test_a_killed_kernel_ends_the_run_with_a_code_and_the_run_goes_on(tiny_pack, tmp_path, scratch, whole):
    done = run(tiny_pack, tmp_path / "out", SEG1A_FAULT="kill:1:named */s3_candidate_set.parquet", **scratch)
    assert (done.returncode, last_line(done).split()[:2]) == (1, ["FAIL", "E_NOTEBOOK_KERNEL_LOST"]) and temporaries(tmp_path) == []
    root = went_on(tiny_pack, tmp_path / "out", **scratch)
    assert verify_bundle(root).passed and data(sealed(root)) == data(whole[0])
    assert len(list(root.glob("_quarantine/0001/validation/failures/*/*/*/failure.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_kernels_killed_at_many_points(tiny_pack, tmp_path, scratch, whole_with_notebooks, part):
    of_the_states = [point for point in whole_with_notebooks[1] if not point.startswith(("S0 ", "S1 ", "S2 ", "S3 ", "S4 "))]
    for number, (point, nth) in enumerate(passages(of_the_states, 12)[part::4]):
        output = tmp_path / str(number)
        run(tiny_pack, output, SEG1A_FAULT=f"kill:{nth}:{point}", **scratch)
        check_whole(went_on(tiny_pack, output, **scratch), whole_with_notebooks[0])


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["runner", "kernel", "all"])
def test_processes_of_a_notebook_run_killed_at_random_times(tiny_pack, tmp_path, scratch, whole_with_notebooks, whom):
    moments = random.Random(whom)
    for number in range(4):
        output = tmp_path / str(number)
        command = Command(*[word for word in RUN if word != "--quiet"], "--pack", tiny_pack, "--output-dir", output, **scratch)
        state = moments.randrange(5)
        command.until(lambda: f"S{state} " in command.stderr())
        time.sleep(moments.uniform(0, 1))
        below = kernels_of(command.pid)
        for pid in {"runner": [command.pid], "kernel": below[-1:], "all": [command.pid, *below]}[whom]:
            kill(pid)
        command.done()
        check_whole(went_on(tiny_pack, output, **scratch), whole_with_notebooks[0])
    assert list(Path(scratch["TMPDIR"]).glob("seg1a-*")) == []


# ---- promotion ------------------------------------------------------------------------------------------------------


def promotion_points(root: Path, folder: Path) -> list[str]:
    os.environ["SEG1A_FAULT"] = f"list:{folder}/points:"
    try:
        promote(root, folder / "listed")
    finally:
        del os.environ["SEG1A_FAULT"]
    return [point for point in (folder / "points").read_text().splitlines() if point.startswith("promote")]


@pytest.mark.parametrize("point", ["promote validation_bundle/*/_passed.flag", "promote: named"])
def test_a_killed_promotion_is_repeated(passed_run, tmp_path, scratch, point):
    promoted_after_a_kill(passed_run, tmp_path, scratch, f"kill:1:{point}")


def promoted_after_a_kill(root: Path, folder: Path, scratch: dict[str, str], order: str) -> None:
    assert Command("promote", root, folder / "to", SEG1A_FAULT=order, **scratch).done().returncode == -signal.SIGKILL
    there = list((folder / "to").glob("*/*/*/promotion_record.json"))
    assert len([path for path in there if "_tmp" not in str(path)]) == (1 if order.endswith("named") else 0)
    done = Command("promote", root, folder / "to", **scratch).done()
    assert done.returncode == 0 and last_line(done).startswith("PROMOTED"), done.stderr
    assert temporaries(folder / "to") == [] and Command("verify", last_line(done).split()[1], **scratch).done().returncode == 0


@pytest.mark.slow
def test_promotion_killed_at_many_points(passed_run, tmp_path, scratch):
    points = promotion_points(passed_run, tmp_path)
    for number, (point, nth) in enumerate(passages(points, 10)):
        promoted_after_a_kill(passed_run, tmp_path / str(number), scratch, f"kill:{nth}:{point}")


def test_a_killed_staging_is_swept_by_the_next(tiny_pack, tmp_path, scratch):
    assert Command("stage", tiny_pack, tmp_path / "to", SEG1A_FAULT="kill:1:staged */test", **scratch).done().returncode == -signal.SIGKILL
    assert temporaries(tmp_path / "to")
    assert Command("stage", tiny_pack, tmp_path / "to", **scratch).done().returncode == 0
    assert temporaries(tmp_path / "to") == [] and [path.name for path in (tmp_path / "to").iterdir()] == ["test"]


def test_the_late_proof_of_a_killed_seal_is_repeated(tiny_pack, tmp_path, scratch):
    done = run(tiny_pack, tmp_path / "out", *IN_PROCESS, "--no-validate-s1")
    root = last_line(done).removeprefix("WITHHELD ")
    assert Command("seal", root, "--quiet", SEG1A_FAULT="kill:1:named manifest_fingerprint=*/SHA256SUMS", **scratch).done().returncode == -signal.SIGKILL
    assert Command("verify", root).done().returncode == 1
    assert Command("seal", root, "--quiet", **scratch).done().returncode == 0 and Command("verify", root).done().returncode == 0
