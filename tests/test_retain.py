"""Retention near and far: terms, holds, the log, and what is never deleted."""

import json

import pytest

from seg1a.core.errors import Seg1aError
from seg1a.inputs.pack import default_policies
from seg1a.operations import retain as retain_module
from seg1a.operations.cli import main
from seg1a.operations.promote import promote
from seg1a.operations.promoted import RECORD, RETENTION_LOG, verify_promoted
from seg1a.operations.retain import DAY_NS, apply_retention, plan_retention, read_policy
from seg1a.operations.store import open_store

POLICY = default_policies() / "retention.yaml"


@pytest.fixture
def kept(places, passed_run):
    """A place with an old run, whole, and the record of a newer one; (place, URI of the old run)."""
    dest = places.fresh()
    done = promote(passed_run, dest, now_ns=1)
    newer = done.record | {"manifest_fingerprint": "0" * 64, "promoted_utc_ns": 2}
    places.put(f"{dest}/manifest_fingerprint={'0' * 64}/seed={newer['seed']}/run_id={newer['run_id']}", RECORD, json.dumps(newer).encode())
    return dest, done.uri


def test_a_dry_run_changes_nothing(places, kept, capsys):
    before = places.files(kept[0])
    assert main(["retain", kept[0], "--policy", str(POLICY), "--json"]) == 0
    document, line = capsys.readouterr().out.splitlines()
    assert line.startswith("WOULD DELETE ") and not json.loads(document)["applied"] and places.files(kept[0]) == before
    assert main(["retain", kept[0], "--policy", str(POLICY), "--as-of", "1970-01-02"]) == 0
    assert capsys.readouterr().out == f"NOTHING TO DELETE in {kept[0]}\n"


def test_apply_deletes_logs_and_says_so(places, kept, capsys):
    dest, uri = kept
    before = places.files(uri)
    assert main(["retain", dest, "--policy", str(POLICY), "--apply"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("DELETED ")
    after, rows = places.files(uri), [json.loads(line) for line in places.files(uri)[RETENTION_LOG].splitlines()]
    assert {path for row in rows for path in (file["path"] for file in row["files"])} == before.keys() - after.keys()
    assert {row["class"] for row in rows} == {"rng_audit_log", "rng_events", "rng_trace_log", "telemetry"}
    assert all(path.startswith("logs/") for path in before.keys() - after.keys()) and not any(path.startswith("logs/") for path in after)
    verdict = verify_promoted(open_store(uri))
    assert verdict.passed and set(verdict.expired) == before.keys() - after.keys()
    assert main(["verify", uri]) == 0 and "were deleted" in capsys.readouterr().err
    assert main(["retain", dest, "--policy", str(POLICY), "--apply"]) == 0 and capsys.readouterr().out.startswith("NOTHING TO DELETE")
    assert places.files(uri)[RETENTION_LOG] == after[RETENTION_LOG]


def test_killed_between_log_and_deletion(places, kept, monkeypatch):
    """A file that is still there although the log says that it is gone is deleted by the next run of the tool; the run verifies meanwhile."""
    dest, uri = kept
    policy, now = read_policy(POLICY), 400 * DAY_NS
    monkeypatch.setattr(retain_module, "in_parallel", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        apply_retention(dest, plan_retention(dest, policy, now), policy, now)
    monkeypatch.undo()
    for name, value in places.environment().items():
        monkeypatch.setenv(name, value)
    verdict = verify_promoted(open_store(uri))
    assert verdict.passed and not verdict.expired
    plan = plan_retention(dest, policy, now)
    assert len(plan) == 4
    apply_retention(dest, plan, policy, now)
    assert verify_promoted(open_store(uri)).expired and not plan_retention(dest, policy, now)


def test_a_file_that_went_without_a_line_is_missing(places, kept):
    uri = kept[1]
    path = next(path for path in places.files(uri) if "/trace/" in path)
    places.remove(uri, path)
    assert {problem.kind for problem in verify_promoted(open_store(uri)).problems} == {"missing"}
    places.put(uri, RETENTION_LOG, b'{"version": "nonsense"}\n')
    assert not verify_promoted(open_store(uri)).passed


def test_a_damaged_run_is_evidence(places, kept, capsys):
    dest, uri = kept
    path = next(path for path in places.files(uri) if path.endswith("s1_hurdle/report.json"))
    places.put(uri, path, b"{}")
    assert main(["retain", dest, "--policy", str(POLICY), "--apply"]) == 0
    done = capsys.readouterr()
    assert done.out.startswith("NOTHING TO DELETE") and "does not verify" in done.err


def test_two_tools_at_once(places, kept, monkeypatch):
    """Who did not see the log as it is now writes and deletes nothing."""
    dest, uri = kept
    policy, now, store = read_policy(POLICY), 400 * DAY_NS, open_store(kept[1])
    plan, kind = plan_retention(dest, policy, now), type(store)
    read_version = kind.read_version

    def late(self, path):
        seen = read_version(self, path)
        if path == RETENTION_LOG and seen[1] is None:
            places.put(uri, RETENTION_LOG, b"")
        return seen
    monkeypatch.setattr(kind, "read_version", late)
    before = {path for path in places.files(uri)}
    if places.kind == "s3":
        with pytest.raises(Seg1aError) as caught:
            apply_retention(dest, plan, policy, now)
        assert caught.value.code == "E_STORE_CONFLICT" and set(places.files(uri)) - {RETENTION_LOG} == before


def test_a_policy_that_promises_less_than_the_dictionary(tmp_path, kept):
    (tmp_path / "short.yaml").write_text(POLICY.read_text().replace("rng_events: {keep_days: 180}", "rng_events: {keep_days: 30}"))
    assert main(["retain", kept[0], "--policy", str(tmp_path / "short.yaml"), "--apply"]) == 2
