"""Promotion to a folder and to a real bucket: whole, in order, once; killed, raced, contradicted; and the verdict on what lies there."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from store_support import code_of, flipped

from seg1a.core.errors import NotPassed, Seg1aError
from seg1a.core.flags import FLAG
from seg1a.operations import promote as promote_module
from seg1a.operations.cli import main
from seg1a.operations.consume import open_run
from seg1a.operations.promote import promote, promoted_path, run_files
from seg1a.operations.promoted import RECORD, verify_promoted
from seg1a.operations.store import BucketStore, FolderStore, in_parallel, open_store


@pytest.fixture
def changed_run(passed_run, tmp_path) -> Path:
    """The same run, with another summary: other content for the same place."""
    root = tmp_path / "parameter_hash=x" / passed_run.name
    shutil.copytree(passed_run, root)
    (root / "run_summary.json").write_bytes((root / "run_summary.json").read_bytes() + b"\n")
    return root


def test_the_whole_run_is_promoted(places, passed_run):
    dest = places.fresh()
    done = promote(passed_run, dest, lambda root, now, verdict: {"attestations/a.json": b"{}", "events.ndjson": b""}, now_ns=5)
    identity = json.loads((passed_run / "run_root.json").read_bytes())
    assert done.uri == f"{dest}/{promoted_path(identity)}" and not done.was_there and f"seed={2**63 + 7}/" in done.uri
    there = places.files(done.uri)
    assert {path: there[path] for path in run_files(passed_run)} == {path: place.read_bytes() for path, place in run_files(passed_run).items()}
    assert there.keys() - run_files(passed_run).keys() == {RECORD, "attestations/a.json", "events.ndjson"}
    record = json.loads(there[RECORD])
    assert record["promoted_utc_ns"] == 5 and record["seed"] == 2**63 + 7 and record["artefact_version"] == "test"
    assert record["bytes"] == sum(len(data) for path, data in there.items() if path != RECORD)
    assert verify_promoted(open_store(done.uri)).passed
    assert places.files(dest).keys() == {f"{promoted_path(identity)}/{path}" for path in there}  # and nothing else anywhere


def test_promoting_twice_changes_nothing(places, passed_run):
    dest = places.fresh()
    first = promote(passed_run, dest, now_ns=1)
    before = places.files(dest)
    again = promote(passed_run, dest, lambda root, now, verdict: {"late.txt": b"x"}, now_ns=2)
    assert again.was_there and again.record == first.record and places.files(dest) == before


def test_the_order_of_the_files(places, passed_run, monkeypatch):
    """Claim first, flags after all other files, the root flag after its siblings, the record last."""
    created = []
    for kind in (FolderStore, BucketStore):
        create = kind.create
        monkeypatch.setattr(kind, "create", lambda self, path, source, create=create: (created.append(path), create(self, path, source))[1])
    promote(passed_run, places.fresh(), lambda root, now, verdict: {"attestations/a.json": b"{}"})
    flags = [path for path in created if path.endswith(f"/{FLAG}")]
    assert created[0].endswith("/index.json") and created[-1] == RECORD and created[-1 - len(flags):-1] == flags
    assert created[-2].count("/") == 2 and len(flags) == 6  # S0's own, S1..S4, and at last the root flag
    assert created.index("attestations/a.json") < created.index(flags[0])


def test_other_content_under_the_same_name(places, passed_run, changed_run):
    dest = places.fresh()
    promote(passed_run, dest)
    before = places.files(dest)
    assert code_of(promote, changed_run, dest) == "E_PROMOTE_CONFLICT"
    assert places.files(dest) == before


def test_eight_at_once(places, passed_run, changed_run):
    """Those with the content that won succeed, all of them; those with the other are refused; what lies there is whole."""
    dest, start = places.fresh(), threading.Barrier(8)

    def one(number: int) -> str:
        start.wait()
        try:
            return promote([passed_run, changed_run][number % 2], dest).uri
        except Seg1aError as error:
            return error.code
    outcomes = in_parallel(one, range(8), threads=8)
    winners = {number % 2 for number, outcome in enumerate(outcomes) if "run_id=" in outcome}
    (winner,), (uri,) = winners, {outcome for outcome in outcomes if "run_id=" in outcome}
    assert sorted(outcomes) == sorted([uri] * 4 + ["E_PROMOTE_CONFLICT"] * 4)
    assert verify_promoted(open_store(uri)).passed
    assert places.files(uri)["run_summary.json"] == ([passed_run, changed_run][winner] / "run_summary.json").read_bytes()
    assert not any("_tmp." in path for path in places.files(dest))


def test_eight_equal_ones_at_once(places, passed_run):
    dest, start = places.fresh(), threading.Barrier(8)
    done = in_parallel(lambda number: (start.wait(), promote(passed_run, dest, now_ns=number))[1], range(8), threads=8)
    assert len({(one.uri, json.dumps(one.record)) for one in done}) == 1 and sum(not one.was_there for one in done) == 1
    assert verify_promoted(open_store(done[0].uri)).passed


KILLED = """
import os, signal, sys
from seg1a.operations import store
from seg1a.operations.promote import promote
last, count = sys.argv[3], 0
for kind in (store.FolderStore, store.BucketStore):
    def create(self, path, source, original=kind.create):
        global count
        count += 1
        if path == last or str(count) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, path, source)
    kind.create = create
promote(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("moment", ["30", RECORD])
def test_killed_in_the_middle_then_again(places, passed_run, moment):
    dest = places.fresh()
    killed = subprocess.run([sys.executable, "-c", KILLED, passed_run, dest, moment], env=os.environ | places.environment(), capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    uri = f"{dest}/{promoted_path(json.loads((passed_run / 'run_root.json').read_bytes()))}"
    assert places.files(dest) and not verify_promoted(open_store(uri)).passed
    assert code_of(open_run, uri) == "E_NOT_PROMOTED"
    assert not promote(passed_run, dest).was_there
    assert verify_promoted(open_store(uri)).passed and not any("_tmp." in path for path in places.files(dest))


def test_what_another_left_unfinished_is_not_finished_with_other_content(places, passed_run, changed_run):
    """A file that was there before is compared, not trusted."""
    dest = places.fresh()
    uri = f"{dest}/{promoted_path(json.loads((passed_run / 'run_root.json').read_bytes()))}"
    if places.kind == "s3":
        places.put(uri, "run_summary.json", (changed_run / "run_summary.json").read_bytes())
        assert code_of(promote, passed_run, dest) == "E_PROMOTE_CONFLICT"
        assert RECORD not in places.files(uri) and not any(path.endswith(FLAG) for path in places.files(uri))
        places.remove(uri, "run_summary.json")
        places.put(uri, "stranger.txt", b"x")
        assert code_of(promote, passed_run, dest) == "E_PROMOTE_CONFLICT"
    else:  # on a file system nothing unfinished has the name of a run
        places.put(uri, "run_summary.json", b"{}")
        assert code_of(promote, passed_run, dest) == "E_STORE_NOT_FOUND"


def test_a_byte_that_changes_on_the_way(places, passed_run, monkeypatch):
    for kind in (FolderStore, BucketStore):
        create = kind.create

        def damaging(self, path, source, create=create):
            return create(self, path, flipped(Path(source).read_bytes()) if path.endswith("s3_candidate_set.parquet") else source)
        monkeypatch.setattr(kind, "create", damaging)
    dest = places.fresh()
    assert code_of(promote, passed_run, dest) == "E_PROMOTE_CONFLICT"
    assert not any(path.endswith((RECORD, FLAG)) for path in places.files(dest))


def test_one_flipped_byte_in_any_object_is_found(places, passed_run):
    done = promote(passed_run, places.fresh(), lambda root, now, verdict: {"beside.txt": b"text"})
    store, missed = open_store(done.uri), []
    there = places.files(done.uri)
    names = sorted(there)[::1 if places.kind == "file" else 8]
    for path in names:
        places.put(done.uri, path, flipped(there[path], len(there[path]) // 2))
        if verify_promoted(store).passed:
            missed.append(path)
        places.put(done.uri, path, there[path])
    assert missed == [] and verify_promoted(store).passed


def test_a_missing_and_an_extra_object(places, passed_run):
    uri = promote(passed_run, places.fresh()).uri
    store, there = open_store(uri), places.files(uri)
    for path in (RECORD, "run_summary.json", "logs/telemetry/run_environ.json", next(path for path in there if path.endswith("s3_candidate_set.parquet")),
                 next(path for path in there if path.startswith("validation_bundle/") and path.endswith(FLAG))):
        places.remove(uri, path)
        assert not verify_promoted(store).passed, path
        places.put(uri, path, there[path])
    for path in ("stranger.txt", "logs/rng/stranger.jsonl", "validation_bundle/stranger"):
        places.put(uri, path, b"x")
        verdict = verify_promoted(store)
        assert not verdict.passed and {problem.kind for problem in verdict.problems} >= {"extra"}, path
        places.remove(uri, path)
    assert verify_promoted(store).passed


def test_a_run_under_the_name_of_another(places, passed_run):
    uri = promote(passed_run, places.fresh()).uri
    other = uri.replace(f"seed={2**63 + 7}", "seed=7")
    for path, data in places.files(uri).items():
        places.put(other, path, data)
    assert [problem.kind for problem in verify_promoted(open_store(other)).problems] == ["lineage"]
    assert code_of(open_run, other) == "E_GATE_MISMATCH"


@pytest.mark.parametrize("damage", ["flag", "table", "summary", "link"])
def test_what_may_not_be_promoted(places, passed_run, tmp_path, damage):
    root = tmp_path / "run"
    shutil.copytree(passed_run, root)
    if damage == "flag":
        next(root.glob(f"validation_bundle/*/{FLAG}")).unlink()
    elif damage == "table":
        table = next(root.rglob("s3_candidate_set.parquet"))
        table.write_bytes(flipped(table.read_bytes()))
    elif damage == "summary":
        (root / "run_summary.json").unlink()
    else:
        (root / "logs/telemetry/link").symlink_to("/etc/hostname")
    dest = places.fresh()
    with pytest.raises(NotPassed):
        promote(root, dest)
    assert places.files(dest) == {}


def test_another_run_with_other_draws(places, passed_run, monkeypatch):
    """A sibling whose draws differ cannot be made; one whose record says so stands for it."""
    dest = places.fresh()
    done = promote(passed_run, dest)
    sibling = done.uri.replace(passed_run.name, f"run_id={'0' * 32}")
    record = done.record | {"run_id": "0" * 32}
    places.put(sibling, RECORD, json.dumps(record).encode())
    assert promote(passed_run, dest).was_there  # equal draws may lie side by side
    record["replay_digests"][2]["sha256_hex"] = "0" * 64
    places.put(sibling, RECORD, json.dumps(record).encode())
    assert code_of(promote, passed_run, dest) == "E_PROMOTE_CONFLICT"


def test_a_living_promoter_is_not_swept_away(passed_run, tmp_path, monkeypatch):
    """While one fills its folder, another promotes the same run; both succeed."""
    fill, inside = promote_module._fill, []

    def slow(store, shipment, identity):
        monkeypatch.setattr(promote_module, "_fill", fill)
        inside.append(promote(passed_run, tmp_path / "kept"))
        return fill(store, shipment, identity)
    monkeypatch.setattr(promote_module, "_fill", slow)
    done = promote(passed_run, tmp_path / "kept")
    assert done.was_there and not inside[0].was_there and done.record == inside[0].record


def test_a_denied_key(s3_server, passed_run, monkeypatch, capsys):
    for name, value in s3_server.environment("reader").items():
        monkeypatch.setenv(name, value)
    assert main(["promote", str(passed_run), "s3://bucket/denied"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAIL E_STORE_DENIED ")


def test_the_commands(places, passed_run, capsys):
    assert main(["promote", str(passed_run), places.fresh(), "--json"]) == 0
    document, line = capsys.readouterr().out.splitlines()
    verb, uri = line.split()
    assert verb == "PROMOTED" and json.loads(document)["promoted"] == uri
    assert main(["verify", uri, "--json"]) == 0
    document, line = capsys.readouterr().out.splitlines()
    assert line == f"PASS {uri}" and json.loads(document)["problems"] == []
    places.put(uri, "run_summary.json", b"{}")
    assert main(["verify", uri]) == 1 and capsys.readouterr().out.splitlines()[-1].startswith("FAIL E_VERIFY_FAILED 1 problem")
    places.remove(uri, RECORD)
    assert main(["verify", uri]) == 1
