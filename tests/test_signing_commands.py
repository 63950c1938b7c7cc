"""Signatures as an operator asks for them: `promote --sign`, `verify --require-signature`, `replay --sign`, on both kinds of places."""
import json

import pytest

from seg1a.operations.attest import local_files, verify_run_signature
from seg1a.operations.envelope import write_key_pair


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two key pairs, ours and a stranger's: the place of `<name>` and `<name>.pub`."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "stranger"):
        write_key_pair(folder / name, folder / f"{name}.pub")
    return folder


def last_line(done) -> str:
    return done.stdout.splitlines()[-1]


@pytest.fixture
def promoted(seg1a, places, passed_run, keys) -> str:
    """The place of a run that was promoted with our signature."""
    done = seg1a("promote", passed_run, places.fresh(), "--sign", keys / "ours", "--json", **places.environment())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["attached"] == ["attestations/origin.dsse.json", "attestations/verdict.dsse.json", "openlineage.ndjson"]
    return last_line(done).removeprefix("PROMOTED ")


def test_a_signed_run_passes_with_the_key_and_with_no_other(seg1a, places, promoted, keys):
    good = seg1a("verify", promoted, "--require-signature", keys / "ours.pub", **places.environment())
    assert (good.returncode, last_line(good)) == (0, f"PASS {promoted}"), good.stderr
    bad = seg1a("verify", promoted, "--require-signature", keys / "stranger.pub", **places.environment())
    assert bad.returncode == 1 and last_line(bad).startswith("FAIL E_SIGNATURE_"), bad.stdout


def test_an_unsigned_run_is_refused_where_a_signature_is_required(seg1a, places, passed_run, keys):
    place = last_line(seg1a("promote", passed_run, places.fresh(), **places.environment())).removeprefix("PROMOTED ")
    assert seg1a("verify", place, **places.environment()).returncode == 0
    done = seg1a("verify", place, "--require-signature", keys / "ours.pub", **places.environment())
    assert done.returncode == 1 and last_line(done).startswith("FAIL E_SIGNATURE_MISSING")


def test_a_run_root_carries_no_signature(seg1a, passed_run, keys):
    done = seg1a("verify", passed_run, "--require-signature", keys / "ours.pub")
    assert done.returncode == 1 and last_line(done).startswith("FAIL E_SIGNATURE_MISSING")


def test_a_key_that_is_none_leaves_nothing_behind(seg1a, places, passed_run, tmp_path):
    (tmp_path / "key").write_text("no key")
    dest = places.fresh()
    done = seg1a("promote", passed_run, dest, "--sign", tmp_path / "key", **places.environment())
    assert done.returncode == 2 and last_line(done).startswith("FAIL E_SIGN_KEY") and "Traceback" not in done.stderr
    assert places.files(dest) == {}


def test_a_replay_signs_what_it_found_equal(seg1a, passed_run, small_pack, keys, tmp_path):
    place = last_line(seg1a("promote", passed_run, tmp_path / "kept")).removeprefix("PROMOTED ")
    statement = tmp_path / "replay.dsse.json"
    done = seg1a("replay", place, "--pack", small_pack, "--sign", keys / "ours", "--statement", statement, "--quiet")
    assert (done.returncode, last_line(done)) == (0, f"EQUAL {place}"), done.stderr
    verified = verify_run_signature(local_files(place), keys / "ours.pub", {"replay": statement.read_bytes()}, ("replay",))
    assert verified["replay"]["predicate"]["properties"] == ["SEG1A_REPLAY_EQUAL"]


@pytest.mark.parametrize("flags", [("--sign", "k"), ("--statement", "s"), ("--sign", "k", "--statement", "s", "--data-only")])
def test_flags_that_do_not_go_together(seg1a, flags):
    done = seg1a("replay", "/nowhere", "--pack", "/nowhere", *flags)
    assert done.returncode == 2 and "E_USAGE" in done.stdout
