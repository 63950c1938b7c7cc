"""Publishing, lineage, sealed inputs, claiming, opening, the record of a failure."""
import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from seg1a.core import run as run_module
from seg1a.core.contracts import contracts
from seg1a.core.encoding import canonical_line
from seg1a.core.errors import Seg1aError
from seg1a.core.lineage import digest_file, run_id
from seg1a.core.run import (Lineage, Options, Run, atomic_bytes, claim_run_root, failure_path, mark_partial, open_run, record_failure, staged,
                            sweep_temporaries, unsealed_lineage)

LINEAGE = Lineage(2**64 - 1, "ab" * 32, "cd" * 32, "ef" * 16, 1_700_000_000_123_456_789)


def refusal(expected, call, /, *args, **kwargs):
    with pytest.raises(Seg1aError) as caught:
        call(*args, **kwargs)
    assert caught.value.code == expected
    return caught.value


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def run(tmp_path):
    "A root as S0 leaves it, with a pack of two files."
    pack = tmp_path / "pack"
    rows = []
    for name, data in {"config/policy/policy.yaml": b"limit: 3\n", "reference/iso/table.parquet": b"PAR1"}.items():
        atomic_bytes(pack / name, data)
        digest = digest_file(pack / name)
        rows.append({"filename": digest.name, "path": name, "size_bytes": digest.size_bytes, "sha256_hex": digest.sha256})
    made = Run(tmp_path / "root", pack, LINEAGE, Options(s3_priors=True), "ab" * 20)
    atomic_bytes(made.state_bundle(0) / "numeric_policy_attest.json", b"{}\n")
    digest = digest_file(made.state_bundle(0) / "numeric_policy_attest.json")
    rows.append({"filename": digest.name, "path": f"generated:{digest.name}", "size_bytes": 3, "sha256_hex": digest.sha256})
    document = contracts().document("schemas.1A.yaml")
    rows.append({"filename": "schemas.1A.yaml", "path": "package:schemas.1A.yaml", "size_bytes": len(document),
                 "sha256_hex": digest_file(Path(run_module.__file__).parent / "contracts" / "schemas.1A.yaml").sha256})
    claim_run_root(made.root, LINEAGE)
    atomic_bytes(made.state_bundle(0) / "fingerprint_artifacts.jsonl", b"".join(map(canonical_line, rows)))
    stamp = {**LINEAGE.record(), "start_ns": LINEAGE.start_time_ns, "git_commit_hex": "00" * 12 + "ab" * 20, "cli_flags": {**made.options.sealed(), "git_commit": "ab" * 20}}
    atomic_bytes(made.state_bundle(0) / "execution_stamp.json", canonical_line(stamp))
    return made


# ---- publishing

@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "full"), RuntimeError("bug"), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_fault_leaves_nothing(tmp_path, fault, kind):
    expected = Seg1aError if isinstance(fault, OSError) else type(fault)
    with pytest.raises(expected) as caught:
        with staged(tmp_path / "x") as place:
            if kind == "folder":
                place.mkdir()
                (place / "part").write_bytes(b"half")
            else:
                place.write_bytes(b"half")
            raise fault
    if expected is Seg1aError:
        assert caught.value.code == "E_WRITE_FAIL" and caught.value.detail["errno"] == errno.ENOSPC
    assert names(tmp_path) == []


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failing_disk(tmp_path, monkeypatch, broken):
    atomic_bytes(tmp_path / "x", b"old")
    monkeypatch.setattr(os, broken, lambda *args: (_ for _ in ()).throw(OSError(errno.EIO, "input/output error")))
    refusal("E_WRITE_FAIL", atomic_bytes, tmp_path / "x", b"new", replace=True)
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_bytes() == b"old"


def test_published_bytes_are_never_replaced_by_others(tmp_path):
    atomic_bytes(tmp_path / "x", b"one")
    before = (tmp_path / "x").stat()
    atomic_bytes(tmp_path / "x", b"one")
    assert (tmp_path / "x").stat().st_ino == before.st_ino
    assert refusal("E_PARTITION_EXISTS", atomic_bytes, tmp_path / "x", b"two").detail["path"].endswith("/x")
    atomic_bytes(tmp_path / "x", b"two", replace=True)
    assert (tmp_path / "x").read_bytes() == b"two" and names(tmp_path) == ["x"]


def publish_folder(target, files):
    with staged(target) as place:
        place.mkdir()
        for name, data in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)


def test_folders(tmp_path):
    files = {"a": b"1", "deep/b": b"2"}
    publish_folder(tmp_path / "f", files)
    publish_folder(tmp_path / "f", files)
    for other in ({**files, "a": b"9"}, {"a": b"1"}, {**files, "c": b""}, {"a": b"1", "deep": b"2"}):
        refusal("E_PARTITION_EXISTS", publish_folder, tmp_path / "f", other)
    assert names(tmp_path) == ["f", "f/a", "f/deep", "f/deep/b"]


def test_no_place_to_write(tmp_path):
    (tmp_path / "file").touch()
    refusal("E_WRITE_FAIL", atomic_bytes, tmp_path / "file" / "x", b"")


def test_killed_writers_leave_whole_files(tmp_path):
    program = ("import sys; from pathlib import Path; from seg1a.core.run import atomic_bytes\n"
               "print('ready', flush=True)\n"
               "for i in range(10**9): atomic_bytes(Path(sys.argv[1]) / 'x', bytes([i % 251]) * 300_000, replace=True)")
    for delay in (0.02, 0.05, 0.11):
        writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        if (tmp_path / "x").exists():
            data = (tmp_path / "x").read_bytes()
            assert len(data) == 300_000 and len(set(data)) == 1
    sweep_temporaries(tmp_path)
    assert names(tmp_path) in ([], ["x"])


def test_sweep(tmp_path):
    for name in ("_tmp.1/_tmp.2/x", "a/_tmp.3", "a/kept", "_tmpfile", "a/b_tmp.4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sweep_temporaries(tmp_path) == ["_tmp.1", "a/_tmp.3"]
    assert names(tmp_path) == ["_tmpfile", "a", "a/b_tmp.4", "a/kept"]


# ---- lineage, options

def test_lineage_is_frozen_and_says_what_paths_need():
    assert LINEAGE.tokens()["seed"] == "18446744073709551615"
    assert LINEAGE.ts_utc == "2023-11-14T22:13:20.123456Z" and len(LINEAGE.master) == 32
    with pytest.raises(FrozenInstanceError):
        LINEAGE.seed = 1


def test_unsealed_lineage():
    early = unsealed_lineage(7, 5)
    assert early.parameter_hash == early.manifest_fingerprint == "0" * 64 and early.run_id == run_id("0" * 64, 7, 5)
    assert unsealed_lineage(7, 5, "ab" * 32).parameter_hash == "ab" * 32


def test_options_round_trip():
    options = Options(True, False, True, False, (True, False, True, False, True), "/somewhere", False)
    sealed = json.loads(canonical_line(options.sealed()))
    assert Options.from_flags(sealed) == replace(options, s4_validation_output=None)
    assert "/somewhere" not in str(sealed)
    for missing in sealed:
        refusal("E_BUNDLE_INCOMPLETE", Options.from_flags, {k: v for k, v in sealed.items() if k != missing})


# ---- inputs

def test_sealed_inputs(run):
    assert run.artefact("policy.yaml") == b"limit: 3\n" and run.yaml("policy.yaml") == {"limit": 3}
    assert run.artefact_path("table.parquet") == run.pack / "reference/iso/table.parquet"
    assert run.artefact("numeric_policy_attest.json") == b"{}\n"
    assert run.artefact("schemas.1A.yaml") == contracts().document("schemas.1A.yaml")
    assert run.artefact_path("schemas.1A.yaml").name == "schemas.1A.yaml"
    assert run.has_artefact("policy.yaml") and not run.has_artefact("policy")


@pytest.mark.parametrize("read", ["artefact", "artefact_path", "yaml"])
def test_changed_and_missing_inputs(run, read):
    run.artefact_path("policy.yaml")
    policy = run.pack / "config/policy/policy.yaml"
    policy.write_bytes(b"limit: 4\n")
    os.utime(policy, ns=(0, 0))
    refusal("E_ARTIFACT_UNSEALED", getattr(run, read), "policy.yaml")
    policy.unlink()
    assert refusal("E_ARTIFACT_IO", getattr(run, read), "policy.yaml").detail["errno"] == errno.ENOENT
    refusal("E_ARTIFACT_UNSEALED", getattr(run, read), "nobody.yaml")


def test_yaml_of_an_artefact_passes_codes_on(run):
    refusal("E_ELIG_SCHEMA", run.yaml, "table.parquet", root_code="E_ELIG_SCHEMA")


def test_digests_are_taken_once_while_the_file_stands_still(run, monkeypatch):
    taken = []
    monkeypatch.setattr(run_module, "digest_file", lambda path, name: taken.append(name) or digest_file(path, name))
    for _ in range(3):
        run.artefact_path("table.parquet")
    assert taken == ["table.parquet"]
    os.utime(run.pack / "reference/iso/table.parquet", ns=(1, 1))
    run.artefact_path("table.parquet")
    assert len(taken) == 2


# ---- claiming, opening

def test_open_run(run):
    opened = open_run(run.root, run.pack, workers=3)
    assert opened == replace(run, workers=3) and opened.git_commit == "ab" * 20


def test_open_run_takes_the_place_of_s4s_validator_from_the_environment(run, monkeypatch):
    monkeypatch.setenv("SEG1A_S4_VALIDATION_OUTPUT", "/scratch")
    assert open_run(run.root, run.pack).options.s4_validation_output == "/scratch"


@pytest.mark.parametrize("change", [{"seed": 1}, {"parameter_hash": "00" * 32}, {"manifest_fingerprint": "00" * 32}, {"run_id": "00" * 16}])
def test_roots_of_other_runs(run, change):
    refusal("E_RUN_ROOT_CONFLICT", claim_run_root, run.root, replace(LINEAGE, **change))
    stamp = run.state_bundle(0) / "execution_stamp.json"
    stamp.write_bytes(canonical_line({**json.loads(stamp.read_bytes()), **change}))
    refusal("E_RUN_ROOT_CONFLICT", open_run, run.root, run.pack)


@pytest.mark.parametrize("text, code", [(b"{}", "E_BUNDLE_INCOMPLETE"), (b"[]", "E_BUNDLE_INCOMPLETE"), (b"{", "E_JSON_PARSE")])
@pytest.mark.parametrize("file", ["run_root.json", "execution_stamp.json"])
def test_broken_roots(run, file, text, code):
    place = run.root / file if file == "run_root.json" else run.state_bundle(0) / file
    place.write_bytes(text)
    refusal(code, open_run, run.root, run.pack)
    place.unlink()
    refusal("E_BUNDLE_INCOMPLETE", open_run, run.root, run.pack)


def test_places(run):
    assert run.relative(run.path("rng_event_gamma_component", state=2, shard=12)).endswith("/part-s2-00012.jsonl")
    assert [run.relative(run.state_bundle(n)).rsplit("/", 1)[1] for n in range(1, 5)] == ["s1_hurdle", "s2_nb_outlets", "s3_crossborder_universe", "s4_ztp_target"]
    assert run.relative(run.work_dir(4)) == f"validation/parameter_hash={LINEAGE.parameter_hash}/run_id={LINEAGE.run_id}/s4"
    refusal("E_DICTIONARY_PATH", run.path, "rng_event_gamma_component")


# ---- failures

def test_failure_record_keeps_its_schema(run):
    np = pytest.importorskip("numpy")
    error = Seg1aError("E_DSGN_UNKNOWN_MCC", "no coefficient for 42", merchant_id=np.int64(2**62), value=float("inf"), path=Path("/x"), ids=(1, 2))
    path = record_failure(run, None, error, "S0", "seg1a.states.s0_foundations", "hurdle_design_matrix", np.int64(2**62))
    record = json.loads(path.read_bytes())
    assert not list(contracts().validator("schemas.layer1.yaml#/$defs/failure_record").iter_errors(record))
    assert record == {"failure_class": "F3", "failure_code": "design_domain", "error_code": "E_DSGN_UNKNOWN_MCC", "state": "S0",
                      "module": "seg1a.states.s0_foundations", "dataset_id": "hurdle_design_matrix", "merchant_id": 2**62, **LINEAGE.record(),
                      "ts_utc": LINEAGE.start_time_ns, "detail": {"message": "no coefficient for 42", "merchant_id": 2**62, "value": "inf", "path": "/x", "ids": [1, 2]}}
    assert names(path.parent) == ["_FAILED.SENTINEL.json", "failure.json"]
    assert (path.parent / "_FAILED.SENTINEL.json").read_bytes() == path.read_bytes() == canonical_line(record)


def test_the_first_failure_wins(tmp_path):
    first = record_failure(tmp_path, LINEAGE, Seg1aError("E_GDP_MISSING", "one"), "S0", "m")
    text = first.read_bytes()
    assert record_failure(tmp_path, LINEAGE, Seg1aError("E_WRITE_FAIL", "two"), "S4", "m") == first == failure_path(tmp_path, LINEAGE)
    assert first.read_bytes() == text
    other = record_failure(tmp_path, replace(LINEAGE, run_id="00" * 16), Seg1aError("E_WRITE_FAIL", "two"), "S4", "m")
    assert other != first


def test_early_failures_have_a_place(tmp_path):
    lineage = unsealed_lineage(0, 0)
    path = record_failure(tmp_path, lineage, Seg1aError("E_YAML_PARSE", "x"), "S0", "m")
    assert path.relative_to(tmp_path).as_posix() == f"validation/failures/manifest_fingerprint={'0' * 64}/seed=0/run_id={lineage.run_id}/failure.json"


def test_failures_race(tmp_path):
    with ThreadPoolExecutor(12) as pool:
        paths = set(pool.map(lambda i: record_failure(tmp_path, LINEAGE, Seg1aError("E_INTERNAL", "x", i=i), "S1", "m"), range(24)))
    (path,) = paths
    assert names(path.parent.parent) == [path.parent.name, f"{path.parent.name}/_FAILED.SENTINEL.json", f"{path.parent.name}/failure.json"]


def test_a_failure_that_cannot_be_written(tmp_path):
    (tmp_path / "validation").touch()
    refusal("E_WRITE_FAIL", record_failure, tmp_path, LINEAGE, Seg1aError("E_INTERNAL", "x"), "S1", "m")


def test_partial_partitions_are_marked(run):
    path = mark_partial(run, "rng_event_nb_final", "E_WRITE_FAIL", state=2, shard=1)
    assert path.name == "_FAILED.json" and path.parent == run.path("rng_event_nb_final", state=2, shard=0).parent
    assert json.loads(path.read_bytes()) == {"dataset_id": "rng_event_nb_final", "reason": "E_WRITE_FAIL",
                                             "partition_keys": {key: LINEAGE.tokens()[key] for key in ("seed", "parameter_hash", "run_id")}}
