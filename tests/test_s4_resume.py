"""The working folder of S4's validator: cut, killed, tampered with, and started again; the bytes are always those of an undisturbed run."""

import json
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crash_support import Command

from seg1a.core.errors import Seg1aError
from seg1a.core.event_rows import part_path
from seg1a.core.run import Lineage, Run
from seg1a.core.shards import SHARD
from seg1a.states import s4_validate
from seg1a.states.s4_miniature import merchant_facts, miniature_s4
from seg1a.states.s4_validate import DOCUMENTS, validate_s4
from seg1a.states.s4_ztp import run_s4

LINEAGE = Lineage(2**64 - 1, "12" * 32, "34" * 32, "56" * 16, 1_700_000_000_000_000_001)
LINES = "merchant_summary.jsonl"


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def at(run: Run, folder: Path) -> Run:
    return replace(run, options=replace(run.options, s4_validation_output=str(folder)))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Four shards, the second without a merchant in scope, some merchants given up at the cap."""
    n = 3 * SHARD + 700
    ids = np.arange(1, n + 1) * 7
    outside = (np.arange(n) >= SHARD) & (np.arange(n) < 2 * SHARD)
    facts = merchant_facts(ids, is_multi=ids % 20 == 0, n_outlets=np.where(ids % 20 == 0, 2 + ids % 61, 0), leaves_home=np.where(outside, 0, 1), foreign_rows=ids % 3)
    policy = {"semver": "1.0.0", "version": "2025-11-03", "ztp_link": {"theta0": -1.5, "theta1": 0.7}, "ztp_controls": {"MAX_ZTP_ZERO_ATTEMPTS": 3, "ztp_exhaustion_policy": "abort"}}
    wide = {"exhaustion_rate_warn": 1.0, "exhaustion_rate_fail": 1.0, "mean_attempts_warn": 1e6, "mean_attempts_fail": 1e6}
    made = miniature_s4(tmp_path_factory.mktemp("resume"), LINEAGE, facts, policy, limits=wide)
    assert run_s4(made)["metrics"]["s4.aborted"] > 0
    return made


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory) -> dict[str, bytes]:
    """W of an undisturbed validation."""
    folder = tmp_path_factory.mktemp("whole")
    assert validate_s4(at(run, folder)).passed
    return files(folder)


@pytest.fixture
def drawn(monkeypatch) -> list[int]:
    """Indices of the shards that were drawn again since."""
    seen, check = [], s4_validate.validate_event_part

    def spy(run, stream_id, index, *rest):
        if stream_id == "ztp_final":
            seen.append(index)
        return check(run, stream_id, index, *rest)

    monkeypatch.setattr(s4_validate, "validate_event_part", spy)
    return seen


def ends(whole: dict[str, bytes]) -> list[tuple[int, int, int]]:
    """(merchants, last merchant, bytes) at the end of shards 0, 2 and 3."""
    out, count, size, last = [], 0, 0, 0
    for line in whole[LINES].splitlines(keepends=True):
        merchant = json.loads(line)["merchant_id"]
        if last and (merchant // 7 - 1) // SHARD != (last // 7 - 1) // SHARD:
            out.append((count, last, size))
        count, size, last = count + 1, size + len(line), merchant
    return [*out, (count, last, size)]


def unfinished(folder: Path, whole: dict[str, bytes], shard_ends: int, lines: bytes, **changes) -> None:
    """W as a validator leaves it that was killed behind so many shards."""
    merchants, last = ends(whole)[shard_ends - 1][:2] if shard_ends else (0, None)
    state = json.loads(whole["state.json"]) | {"status": "running", "documents": {}, "merchants_done": merchants, "last_merchant_id": last} | changes
    folder.mkdir(exist_ok=True)
    (folder / LINES).write_bytes(lines)
    (folder / "state.json").write_text(json.dumps(state))


ALL = [0, 1, 2, 3]


@pytest.mark.parametrize("shard_ends, redrawn", [(0, ALL), (1, [1, 2, 3]), (2, [3]), (3, [])])
@pytest.mark.parametrize("tail", ["exact", "half a line", "lines of the next shard", "noise"])
def test_continues_behind_the_last_shard(run, whole, drawn, tmp_path, shard_ends, redrawn, tail):
    size = ends(whole)[shard_ends - 1][2] if shard_ends else 0
    more = {"exact": b"", "half a line": whole[LINES][size : size + 50], "lines of the next shard": whole[LINES][size : size + 5000], "noise": b'{"merchant_id":1}\n'}[tail]
    unfinished(tmp_path / "W", whole, shard_ends, whole[LINES][:size] + more)
    (tmp_path / "W" / ("_tmp." + "0" * 32)).write_bytes(b"half a document")
    assert validate_s4(at(run, tmp_path / "W")).passed
    assert files(tmp_path / "W") == whole and sorted(drawn) == redrawn


def test_lines_cut_short_go_on_from_the_shard_before(run, whole, drawn, tmp_path):
    for cut, redrawn in ((ends(whole)[1][2] - 10, [1, 2, 3]), (ends(whole)[0][2] + 1, [1, 2, 3]), (ends(whole)[0][2] - 1, ALL), (0, ALL)):
        drawn.clear()
        unfinished(tmp_path / "W", whole, 3, whole[LINES][:cut])
        assert validate_s4(at(run, tmp_path / "W")).passed
        assert files(tmp_path / "W") == whole and sorted(drawn)[-len(redrawn):] == redrawn


def test_lines_that_differ_start_from_nothing(run, whole, drawn, tmp_path):
    first, _, rest = whole[LINES].partition(b"\n")
    k = whole[LINES].replace(b'"K_target":1,', b'"K_target":2,', 1)
    swapped = whole[LINES].splitlines(keepends=True)
    swapped[5:7] = swapped[6:4:-1]
    for lines in (k, rest, first + b"\n" + whole[LINES], b"".join(swapped), b"\0" * len(whole[LINES])):
        drawn.clear()
        unfinished(tmp_path / "W", whole, 3, lines)
        assert validate_s4(at(run, tmp_path / "W")).passed
        assert files(tmp_path / "W") == whole and set(drawn) == set(ALL)


OTHER = "9" * 64


@pytest.mark.parametrize("change", ["no state", "empty state", "noise", "a list", "version", "lineage", "digest", "policy", "status", "no id", "text id", "no lines", "complete"])
def test_any_other_beginning_starts_from_nothing(run, whole, drawn, tmp_path, change):
    state = json.loads(whole["state.json"])
    name = next(name for name in state["inputs"]["files"] if "ztp_final" in name)
    changes = {"version": {"version": "1A.S4.state.v0"}, "lineage": {"lineage": state["lineage"] | {"run_id": "9" * 32}},
               "digest": {"inputs": state["inputs"] | {"files": state["inputs"]["files"] | {name: OTHER}}},
               "policy": {"inputs": state["inputs"] | {"policy": state["inputs"]["policy"] | {"cap": 65}}}, "status": {"status": "failed"},
               "no id": {"last_merchant_id": None}, "text id": {"last_merchant_id": "7"}, "complete": {"status": "complete"}}.get(change, {})
    unfinished(tmp_path / "W", whole, 2, whole[LINES][: ends(whole)[1][2]], **changes)
    place = tmp_path / "W" / "state.json"
    if change == "no state":
        place.unlink()
    elif change in ("empty state", "noise", "a list"):
        place.write_bytes({"empty state": b"", "noise": b"\xff{", "a list": b"[]"}[change])
    elif change == "no lines":
        (tmp_path / "W" / LINES).unlink()
    assert validate_s4(at(run, tmp_path / "W")).passed
    assert files(tmp_path / "W") == whole and drawn == ALL


def test_a_finished_folder_is_used_again_and_a_touched_one_is_not(run, whole, drawn, tmp_path):
    for name in whole:
        (tmp_path / name).write_bytes(whole[name])
    assert validate_s4(at(run, tmp_path)).passed and not drawn
    for name in DOCUMENTS[:-1]:
        drawn.clear()
        data = bytearray(whole[name])
        data[len(data) // 2] ^= 1
        (tmp_path / name).write_bytes(data)
        assert validate_s4(at(run, tmp_path)).passed
        assert files(tmp_path) == whole and drawn == ALL, name


def test_a_file_too_many_is_seen_although_the_folder_was_finished(run, whole, tmp_path):
    for name in whole:
        (tmp_path / name).write_bytes(whole[name])
    stray = part_path(run, "ztp_final", 0).with_name("notes.txt")
    stray.write_bytes(b"x")
    try:
        assert {f.code for f in validate_s4(at(run, tmp_path)).findings} == {"DICT_BYPASS_FORBIDDEN"}
    finally:
        stray.unlink()
    assert validate_s4(at(run, tmp_path)).passed and files(tmp_path) == whole


def test_an_input_that_changed_starts_from_nothing_and_findings_are_made_again(run, whole, drawn, tmp_path, monkeypatch):
    """Damage in the third shard: what may be continued ends at the shard before."""
    part = part_path(run, "ztp_final", 2)
    good = part.read_bytes()
    unfinished(tmp_path / "W", whole, 3, whole[LINES])
    part.write_bytes(good.replace(b'"K_target":1,', b'"K_target":2,', 1))
    states, write = [], s4_validate.atomic_bytes

    def spy(path, data, replace=False):
        states.extend([json.loads(data)] if path.name == "state.json" else [])
        write(path, data, replace=replace)

    monkeypatch.setattr(s4_validate, "atomic_bytes", spy)
    try:
        report = validate_s4(at(run, tmp_path / "W"))
        assert {f.code for f in report.findings} == {"RNG_REPLAY_MISMATCH"} and drawn == ALL
        first = ends(whole)[0][:2]
        assert [(s["status"], s["merchants_done"], s["last_merchant_id"]) for s in states[:-1]] == [("running", 0, None), ("running", *first), ("running", *first)]
        failed = files(tmp_path / "W")
        assert states[-1]["status"] == "failed" and b'"codes":["RNG_REPLAY_MISMATCH"]' in failed[LINES]
        drawn.clear()
        (tmp_path / "W" / "state.json").write_text(json.dumps(states[-2]))
        again = validate_s4(at(run, tmp_path / "W"))
        assert again.as_json() == report.as_json() and files(tmp_path / "W") == failed and drawn == [1, 2, 3]
        drawn.clear()
        assert validate_s4(at(run, tmp_path / "W")).as_json() == report.as_json() and not drawn
    finally:
        part.write_bytes(good)


def test_workers_may_change_between_the_two(run, whole, tmp_path):
    unfinished(tmp_path / "W", whole, 1, whole[LINES][: ends(whole)[0][2] + 77])
    assert validate_s4(at(replace(run, workers=2), tmp_path / "W")).passed and files(tmp_path / "W") == whole


def test_a_place_that_cannot_be_written(run, tmp_path):
    (tmp_path / "W").write_bytes(b"")
    with pytest.raises(Seg1aError) as caught:
        validate_s4(at(run, tmp_path / "W"))
    assert caught.value.code == "E_WRITE_FAIL"


# ---- processes that are killed --------------------------------------------------------------------------------------------


ARMED = """
import os, signal, sys
from seg1a.core import run as core_run
from seg1a.states import s4_folder, s4_validate
point, left = sys.argv[1], int(sys.argv[2])

def armed(call, before):
    def wrapped(*arguments, **named):
        global left
        left -= 1
        if left < 0 and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*arguments, **named)
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped

if point == "write":
    s4_folder.Lines.append = armed(s4_folder.Lines.append, False)
elif point == "fsync":
    s4_folder.os = type("os", (), {"fsync": staticmethod(armed(os.fsync, True))})
elif point == "state":
    s4_validate.atomic_bytes = armed(s4_validate.atomic_bytes, False)
elif point == "rename":
    core_run.os.replace = armed(core_run.os.replace, True)
from seg1a.operations.cli import main
sys.exit(main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def finished(seg1a, sharded_pack, tmp_path_factory) -> Path:
    """A whole run of three shards."""
    folder = tmp_path_factory.mktemp("whole-run")
    done = seg1a("run", "--pack", sharded_pack, "--output-dir", folder, "--seed", 3, "--no-notebooks", "--git-commit", "0" * 40)
    assert done.returncode == 0, done.stderr
    return Path(json.loads(next(folder.rglob("run_summary.json")).read_bytes())["output_dir"])


def validation(root: Path, folder: Path, *armed) -> Command:
    return Command(*armed, "validate", root, "--state", "s4", "--s4-validation-output", folder, "--workers", "1", program=ARMED if armed else None)


def validated(root: Path, folder: Path) -> None:
    done = validation(root, folder).done()
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def undisturbed(finished, tmp_path_factory) -> tuple[dict[str, bytes], float]:
    """W of a validation that nobody disturbed, and how long it took."""
    folder, start = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    validated(finished, folder)
    return files(folder), time.monotonic() - start


def test_the_published_folder_is_the_working_folder(finished, undisturbed):
    published = files(next(finished.glob("validation_bundle/*/s4_ztp_target")))
    assert {name: published[name] for name in undisturbed[0] if name != "state.json"} == {name: data for name, data in undisturbed[0].items() if name != "state.json"}


@pytest.mark.parametrize("point, count", [("write", 1), ("fsync", 1), ("state", 0), ("state", 2), ("state", 5), ("rename", 6)])
def test_killed_at_armed_points(finished, undisturbed, tmp_path, point, count):
    done = validation(finished, tmp_path, point, count).done()
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = files(tmp_path)
    assert "state.json" in left or count == 0
    validated(finished, tmp_path)
    assert files(tmp_path) == undisturbed[0]


def test_killed_at_random_times(finished, undisturbed, tmp_path):
    """Killed again and again on the way; the process that is left alone finishes the same folder."""
    expected, seconds = undisturbed
    dice = random.Random(4)
    for _ in range(4):
        command = validation(finished, tmp_path)
        time.sleep(dice.uniform(0.3, 1.0) * seconds)
        command.process.kill()
        command.done()
    validated(finished, tmp_path)
    assert files(tmp_path) == expected


def test_a_killed_run_is_proved_in_the_folder_that_it_left_and_a_new_run_does_not_mix(seg1a, sharded_pack, tmp_path):
    """`seg1a run` dies in the middle of S4's validator. `seg1a validate` goes on where it stood; another run begins from nothing in the same folder."""
    W = tmp_path / "W"
    words = ["run", "--pack", sharded_pack, "--output-dir", tmp_path / "runs", "--git-commit", "0" * 40, "--no-notebooks", "--quiet", "--s4-validation-output", W]
    done = Command("write", "1", *words, program=ARMED).done()
    assert done.returncode == -signal.SIGKILL, done.stderr
    state = json.loads((W / "state.json").read_bytes())
    assert state["status"] == "running" and 0 < state["merchants_done"] < len((W / LINES).read_bytes().splitlines())
    (root,) = (path.parent for path in (tmp_path / "runs").glob("*/*/run_root.json"))
    fresh = tmp_path / "fresh"
    shutil.copytree(W, tmp_path / "W2")
    for folder in (W, fresh):
        validated(root, folder)
    assert files(W) == files(fresh)
    words[-1] = tmp_path / "W2"
    done = seg1a(*words)
    assert done.returncode == 0, done.stderr
    (published,) = (tmp_path / "runs").glob("*/*/validation_bundle/*/s4_ztp_target/_passed.flag")
    left = files(tmp_path / "W2")
    assert json.loads(left.pop("state.json"))["lineage"]["run_id"] != state["lineage"]["run_id"]
    assert left == {name: data for name, data in files(published.parent).items() if name != "_passed.flag"}
