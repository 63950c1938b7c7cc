"""Gates: every damage of a sealed run is found, whatever is wrong fails closed, no flag before its time."""
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from seg1a.core.encoding import canonical_line
from seg1a.core.errors import NotPassed, Seg1aError
from seg1a.core.gates import (FLAG, build_evidence_index, build_index, build_outputs_index, build_sha256sums, directory_digest,
                              publish_state_bundle, remove_root_flag, require_flags, verify_bundle, verify_flag, write_flag)
from seg1a.core.run import Lineage, Options, Run
from seg1a.core.tables import OutputRecord

LINEAGE = Lineage(7, "ab" * 32, "cd" * 32, "ef" * 16, 1_700_000_000_000_000_000)
IDENTITY = {"seed": 7, "parameter_hash": "ab" * 32, "manifest_fingerprint": "cd" * 32, "run_id": "ef" * 16}
PASSED = {"version": "1A.S1.validation.v1", "passed": True}
S0_FILES = {"MANIFEST.json": canonical_line(IDENTITY), "validation_summary.json": canonical_line({"passed": True})}


def new_run(root, **options):
    return Run(Path(root), Path(root), LINEAGE, Options(**options), "0" * 40)


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def reseal(run, **documents):
    "Put documents into the bundle and seal it again, as somebody would who knows the rules."
    for name, content in documents.items():
        put(run.bundle_dir / name, content)
    put(run.bundle_dir / "SHA256SUMS", build_sha256sums(run.bundle_dir))
    put(run.bundle_dir / "index.json", build_index(run.bundle_dir))
    return write_flag(run.bundle_dir)


def seal(root):
    "A small run with data, evidence, four state folders and a valid seal."
    run = new_run(root)
    for path, data in {run.path("hurdle_pi_probs"): b"PAR1 rows PAR1", run.path("rng_trace_log"): b"{}\n{}\n",
                       run.path("rng_event_nb_final", state=2, shard=0): b"{}\n", run.root / "logs/telemetry/run_environ.json": b"{}\n",
                       run.root / "run_root.json": canonical_line(IDENTITY), run.root / "run_summary.json": b"{}\n"}.items():
        put(path, data)
    publish_state_bundle(run, 0, S0_FILES, passed=True)
    put(run.work_dir(4) / "state.json", b"{}\n")
    for state in range(1, 5):
        publish_state_bundle(run, state, {"validation_summary.json": canonical_line(PASSED)}, passed=True)
    data = [p for top in ("parameter_scoped", "logs/rng") for p in sorted((run.root / top).rglob("*")) if p.is_file()]
    records = [OutputRecord(run.relative(p), hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_size, 1) for p in data]
    states = {f"S{n}": {"validated": True, "passed": True} for n in range(5)}
    reseal(run, **{"MANIFEST.json": S0_FILES["MANIFEST.json"], "outputs_index.json": build_outputs_index(run.root, records),
                   "evidence_index.json": build_evidence_index(run.root),
                   "validation_summary.json": canonical_line({**IDENTITY, "passed": True, "states": states})})
    return run


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    return seal(tmp_path_factory.mktemp("sealed"))


@pytest.fixture
def copy(sealed, tmp_path):
    shutil.copytree(sealed.root, tmp_path / "copy", symlinks=True)
    return new_run(tmp_path / "copy")


def kinds(run):
    return {problem.kind for problem in verify_bundle(run.root).problems}


def test_a_sealed_run_passes_and_says_how_much_it_read(sealed):
    verdict = verify_bundle(sealed.root)
    assert verdict.passed and verdict.problems == () and verdict.flag == directory_digest(sealed.bundle_dir)
    sealed_files = [p for p in sealed.root.rglob("*") if p.is_file() and p.name not in ("run_summary.json", "run_environ.json")]
    flags = [p for p in sealed_files if p.name == FLAG and p.is_relative_to(sealed.bundle_dir)]
    assert verdict.files == len(sealed_files) - len(flags)
    assert verdict.size_bytes == sum(p.stat().st_size for p in sealed_files) - sum(p.stat().st_size for p in flags)


def test_the_verdict_does_not_depend_on_the_number_of_threads(sealed):
    assert verify_bundle(sealed.root, threads=1) == verify_bundle(sealed.root, threads=7)


def test_a_symlink_to_the_run_root_is_fine(sealed, tmp_path):
    (tmp_path / "latest").symlink_to(sealed.root)
    assert verify_bundle(tmp_path / "latest").passed


def test_sha256sum_agrees(sealed):
    done = subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=sealed.bundle_dir, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


UNSEALED = ("logs/telemetry/run_environ.json", "run_summary.json")


def files_of(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def test_every_byte_counts(copy):
    for name in files_of(copy.root):
        path, data = copy.root / name, (copy.root / name).read_bytes()
        for position in range(0, len(data), max(1, len(data) // 6)):
            for mask in (0x01, 0x20, 0x80):
                path.write_bytes(data[:position] + bytes([data[position] ^ mask]) + data[position + 1:])
                assert verify_bundle(copy.root).passed == (name in UNSEALED), (name, position, mask)
        for changed in (data + b"\n", data[:-1], b""):
            path.write_bytes(changed)
            assert verify_bundle(copy.root).passed == (name in UNSEALED), name
        path.write_bytes(data)
    assert verify_bundle(copy.root).passed


def test_every_missing_file_is_found(copy):
    for name in files_of(copy.root):
        data = (copy.root / name).read_bytes()
        (copy.root / name).unlink()
        assert verify_bundle(copy.root).passed == (name in UNSEALED), name
        put(copy.root / name, data)


@pytest.mark.parametrize("place", ["parameter_scoped/x", "logs/rng/x", "logs/x", "validation/x", "validation_bundle/x", "x", "_tmp.0",
                                   "logs/rng/events/nb_final/x.jsonl", f"validation_bundle/manifest_fingerprint={'cd' * 32}/x",
                                   f"validation_bundle/manifest_fingerprint={'cd' * 32}/s1_hurdle/x",
                                   f"validation_bundle/manifest_fingerprint={'cd' * 32}/x/{FLAG}",
                                   f"validation_bundle/manifest_fingerprint={'00' * 32}/x"])
def test_every_extra_file_is_found(copy, place):
    put(copy.root / place, b"")
    assert not verify_bundle(copy.root).passed and "extra" in kinds(copy)


@pytest.mark.parametrize("place", ["logs/telemetry/x", "validation/failures/manifest_fingerprint=0/failure.json", "_quarantine/0001/x"])
def test_what_is_not_sealed_may_change(copy, place):
    put(copy.root / place, b"x")
    assert verify_bundle(copy.root).passed


@pytest.mark.parametrize("place", ["parameter_scoped/x", "logs/rng/x", "validation/x", "validation_bundle/x", "x",
                                   f"validation_bundle/manifest_fingerprint={'cd' * 32}/x"])
@pytest.mark.parametrize("make", [lambda p: p.symlink_to("/etc/hostname"), lambda p: p.symlink_to("."), os.mkfifo,
                                  lambda p: p.with_name("n\u00e4me").touch()])
def test_links_pipes_and_names_outside_ascii_fail(copy, place, make):
    make(copy.root / place)
    assert not verify_bundle(copy.root).passed


@pytest.mark.parametrize("name", ["parameter_scoped", "logs", "validation", "validation_bundle", "logs/rng",
                                  f"validation_bundle/manifest_fingerprint={'cd' * 32}"])
def test_a_folder_replaced_by_a_link_to_its_own_content_fails(copy, name, tmp_path):
    shutil.move(copy.root / name, tmp_path / "elsewhere")
    (copy.root / name).symlink_to(tmp_path / "elsewhere")
    assert not verify_bundle(copy.root).passed


def test_an_unreadable_file_fails_closed(copy, monkeypatch):
    import seg1a.core.flags as flags

    victim, opened = copy.path("rng_trace_log"), os.open
    def refuse(path, *rest, **options):
        if Path(path) == victim:
            raise PermissionError(13, "denied", str(path))
        return opened(path, *rest, **options)
    monkeypatch.setattr(flags.os, "open", refuse)
    assert not verify_bundle(copy.root).passed


@pytest.mark.parametrize("make", [lambda root: None, lambda root: root.mkdir(), lambda root: put(root / "run_root.json", b"{}\n"),
                                  lambda root: put(root / "run_root.json", b"[]\n"), lambda root: put(root / "run_root.json", b"\xff"),
                                  lambda root: put(root / "run_root.json", canonical_line(IDENTITY)),
                                  lambda root: put(root / "run_root.json", canonical_line({**IDENTITY, "manifest_fingerprint": "../.."})),
                                  lambda root: put(root, b"a file")])
def test_what_is_no_run_root_is_a_verdict_not_a_traceback(tmp_path, make):
    make(tmp_path / "root")
    verdict = verify_bundle(tmp_path / "root")
    assert not verdict.passed and verdict.flag is None and verdict.problems
    with pytest.raises(NotPassed):
        verdict.require()


def test_moving_bytes_between_neighbours_is_found_although_the_hash_stays(copy):
    bundle = copy.bundle_dir
    first, second = (bundle / f"s{n}/validation_summary.json" for n in ("1_hurdle", "2_nb_outlets"))
    before = directory_digest(bundle)
    joined = first.read_bytes() + second.read_bytes()
    first.write_bytes(joined[:5])
    second.write_bytes(joined[5:])
    assert directory_digest(bundle) == before
    assert "changed" in kinds(copy)


@pytest.mark.parametrize("damage, kind", [
    ({"validation_summary.json": canonical_line({**IDENTITY, "passed": False, "states": {}})}, "verdict"),
    ({"validation_summary.json": canonical_line({**IDENTITY, "passed": True, "states": {}})}, "verdict"),
    ({"validation_summary.json": canonical_line({**IDENTITY, "seed": 8, "passed": True,
                                                 "states": {f"S{n}": {"validated": True, "passed": True} for n in range(5)}})}, "lineage"),
    ({"MANIFEST.json": canonical_line({**IDENTITY, "manifest_fingerprint": "00" * 32})}, "lineage"),
    ({"outputs_index.json": b"[]\n"}, "extra"), ({"evidence_index.json": b"[]\n"}, "extra"),
    ({"outputs_index.json": b"{}\n"}, "document"), ({"outputs_index.json": b"[1]\n"}, "document"), ({"evidence_index.json": b"x"}, "document"),
])
def test_a_wrong_document_under_a_correct_flag_is_found(copy, damage, kind):
    reseal(copy, **damage)
    assert verify_flag_or_reason(copy) and kind in kinds(copy)


def verify_flag_or_reason(run):
    return (run.bundle_dir / FLAG).read_text() == f"sha256_hex = {directory_digest(run.bundle_dir)}\n"


def test_a_state_skipped_in_the_summary_is_no_pass(copy):
    states = {f"S{n}": {"validated": n != 3, "passed": True} for n in range(5)}
    reseal(copy, **{"validation_summary.json": canonical_line({**IDENTITY, "passed": True, "states": states})})
    assert kinds(copy) == {"verdict"}


@pytest.mark.parametrize("name", ["validation_summary.json", "MANIFEST.json", "outputs_index.json", "evidence_index.json", "index.json",
                                  "s1_hurdle/validation_summary.json"])
@pytest.mark.parametrize("content", [b"[]\n", b"{}\n", b"1\n", b"null\n", b"", b"{\"a\":1,\"a\":2}\n", b"\xff\n", b"[[[[", b"{\"states\":[]}\n"])
def test_documents_of_the_wrong_kind_are_problems(copy, name, content):
    put(copy.bundle_dir / name, content)
    write_flag(copy.bundle_dir)
    assert not verify_bundle(copy.root).passed


def test_index_out_of_order_or_twice_is_refused(copy):
    index = copy.bundle_dir / "index.json"
    rows = json.loads(index.read_bytes())
    for wrong in (rows[::-1], rows + rows[-1:], rows[1:], [*rows, {"path": "x"}], {"rows": rows}):
        index.write_bytes(canonical_line(wrong))
        write_flag(copy.bundle_dir)
        with pytest.raises(NotPassed):
            verify_flag(copy.bundle_dir)
        assert not verify_bundle(copy.root).passed


@pytest.mark.parametrize("line", [b"", b"sha256_hex = \n", b"sha256_hex=%b\n", b"sha256_hex = %b", b"sha256_hex = %b\n\n", b" sha256_hex = %b\n",
                                  b"sha256_hex = %b\r\n", b"SHA256_HEX = %b\n", b"\xef\xbb\xbfsha256_hex = %b\n"])
def test_only_one_form_of_the_flag_is_a_flag(tmp_path, line):
    put(tmp_path / "d/a", b"1")
    digest = write_flag(tmp_path / "d").encode()
    put(tmp_path / "d" / FLAG, line.replace(b"%b", digest))
    with pytest.raises(NotPassed):
        verify_flag(tmp_path / "d")
    put(tmp_path / "d" / FLAG, b"sha256_hex = " + digest.upper() + b"\n")
    with pytest.raises(NotPassed):
        verify_flag(tmp_path / "d")


def test_flags_themselves_are_never_hashed_at_any_depth(tmp_path):
    put(tmp_path / "d/a", b"1")
    digest = directory_digest(tmp_path / "d")
    put(tmp_path / "d/sub" / FLAG, b"x")
    put(tmp_path / "d" / FLAG, b"y")
    assert directory_digest(tmp_path / "d") == digest
    put(tmp_path / "d" / "x_passed.flag", b"z")
    assert directory_digest(tmp_path / "d") != digest


def test_digest_of_a_large_file_in_blocks(tmp_path):
    data = os.urandom(1 << 20) * 2 + b"tail"
    put(tmp_path / "d/b", data)
    put(tmp_path / "d/c", b"more")
    assert directory_digest(tmp_path / "d") == hashlib.sha256(data + b"more").hexdigest()


def test_outputs_index_takes_the_last_record_and_insists_on_the_tree(tmp_path):
    put(tmp_path / "logs/rng/trace.jsonl", b"12")
    old, new = OutputRecord("logs/rng/trace.jsonl", "00" * 32, 1, 1), OutputRecord("logs/rng/trace.jsonl", "11" * 32, 2, 2)
    assert build_outputs_index(tmp_path, [old, new]) == canonical_line([{"path": new.path, "rows": 2, "sha256": new.sha256, "size_bytes": 2}])
    for wrong in ([new, old], [], [new, OutputRecord("parameter_scoped/t", "00" * 32, 0, 0)]):
        with pytest.raises(Seg1aError) as caught:
            build_outputs_index(tmp_path, wrong)
        assert caught.value.code == "E_OUTPUT_UNLISTED"


def test_gates_between_states(tmp_path):
    run = new_run(tmp_path / "r")
    with pytest.raises(NotPassed) as caught:
        require_flags(run, 1)
    assert caught.value.code == "upstream_gate_closed" and caught.value.detail["state"] == "S0"
    require_flags(run, 0)
    publish_state_bundle(run, 0, S0_FILES, passed=True)
    require_flags(run, 1)
    put(run.work_dir(1) / "x", b"working files do not belong to the S0 bundle")
    require_flags(run, 1)
    put(run.state_bundle(0) / "run_id=another" / "x", b"a stranger's do")
    with pytest.raises(NotPassed):
        require_flags(run, 1)


@pytest.mark.parametrize("summary", [None, b"{}\n", b'{"validated":true}\n', b'{"passed":true}\n', b"not json", b"[]\n", b"1\n"])
def test_a_skipped_state_must_say_so(tmp_path, summary):
    run = new_run(tmp_path / "r", validate=(False, True, True, True, True))
    if summary is not None:
        put(run.state_bundle(0) / "validation_summary.json", summary)
    with pytest.raises(NotPassed):
        require_flags(run, 1)
    put(run.state_bundle(0) / "validation_summary.json", b'{"passed":null,"validated":false}\n')
    require_flags(run, 1)


def test_publishing_withdraws_the_root_flag_first(copy):
    with pytest.raises(Seg1aError):
        publish_state_bundle(copy, 3, {"validation_summary.json": canonical_line({**PASSED, "more": 1})}, passed=True)
    assert not (copy.bundle_dir / FLAG).exists() and not verify_bundle(copy.root).passed
    remove_root_flag(copy)


def test_passed_evidence_is_never_replaced(copy):
    same = {"validation_summary.json": canonical_line(PASSED)}
    publish_state_bundle(copy, 1, same, passed=True)
    for files, passed in (({"validation_summary.json": b"{}\n"}, True), (same, False), ({**same, "metrics.json": b"{}\n"}, True)):
        with pytest.raises(Seg1aError) as caught:
            publish_state_bundle(copy, 1, files, passed=passed)
        assert caught.value.code == "E_PARTITION_EXISTS"
        assert verify_flag(copy.state_bundle(1))


def test_unpassed_evidence_is_set_aside_not_lost(tmp_path):
    run = new_run(tmp_path / "r")
    for attempt in range(3):
        publish_state_bundle(run, 2, {"failures.jsonl": b"%d\n" % attempt}, passed=False)
    aside = sorted((run.root / "_quarantine").rglob("failures.jsonl"))
    assert [p.read_bytes() for p in aside] == [b"0\n", b"1\n"] and (run.state_bundle(2) / "failures.jsonl").read_bytes() == b"2\n"
    assert not list(run.root.rglob("_tmp.*")) and not list(run.root.rglob(FLAG))


def test_files_are_copied_and_unknown_names_refused(tmp_path):
    run = new_run(tmp_path / "r")
    put(tmp_path / "big.jsonl", b"{}\n" * 100_000)
    publish_state_bundle(run, 4, {"merchant_summary.jsonl": tmp_path / "big.jsonl", "validation_summary.json": canonical_line(PASSED)}, passed=True)
    assert (run.state_bundle(4) / "merchant_summary.jsonl").read_bytes() == (tmp_path / "big.jsonl").read_bytes()
    publish_state_bundle(run, 4, {"merchant_summary.jsonl": tmp_path / "big.jsonl", "validation_summary.json": canonical_line(PASSED)}, passed=True)
    for name in ("diary.txt", "../escape", FLAG, "index.json", "sub/x"):
        with pytest.raises(Seg1aError) as caught:
            publish_state_bundle(run, 3, {name: b""}, passed=True)
        assert caught.value.code == "E_DICTIONARY_PATH"
    assert not run.state_bundle(3).exists()
