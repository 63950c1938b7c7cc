"""Digests, hashes, ids and keys of a run."""
import hashlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg1a.core.data_files import BLOCK_BYTES
from seg1a.core import lineage
from seg1a.core.errors import Seg1aError
from seg1a.core.lineage import (FileDigest, code_digest, digest_file, free_run_id, git_bytes, manifest_fingerprint, master_material, merchant_u64, package_root,
                                parameter_hash, root_key_counter, run_id)

ASCII_NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
CONTENTS = st.dictionaries(ASCII_NAMES, st.binary(max_size=8), min_size=1, max_size=6)
PH, FP, GIT = "ab" * 32, "cd" * 32, bytes(range(32))


def refusal(expected, call, /, *args, **kwargs):
    with pytest.raises(Seg1aError) as caught:
        call(*args, **kwargs)
    assert caught.value.code == expected
    return caught.value


def digests(contents):
    return [FileDigest(name, Path(name), len(data), hashlib.sha256(data).hexdigest()) for name, data in contents.items()]


# ---- files

@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 7])
def test_digest_of_a_file(tmp_path, size):
    data = random.Random(size).randbytes(size)
    (tmp_path / "x.bin").write_bytes(data)
    assert digest_file(tmp_path / "x.bin") == FileDigest("x.bin", tmp_path / "x.bin", size, hashlib.sha256(data).hexdigest())
    assert digest_file(str(tmp_path / "x.bin"), "other").name == "other"


@pytest.mark.parametrize("kind", ["PARAM", "ARTIFACT"])
def test_unreadable_files(tmp_path, kind):
    for path in (tmp_path / "absent", tmp_path):
        error = refusal(f"E_{kind}_IO", digest_file, path, kind=kind)
        assert error.detail["errno"] and error.detail["filename"] == path.name


def test_one_change_is_forgiven_two_are_not(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"first")
    changes = []
    original = os.stat

    def meddle(target, *args, **kwargs):
        if Path(target) == path and changes:
            changes.pop()(path)
        return original(target, *args, **kwargs)

    monkeypatch.setattr(lineage.os, "stat", meddle)
    changes[:] = [lambda p: p.write_bytes(b"second, longer")]
    assert digest_file(path).sha256 == hashlib.sha256(b"second, longer").hexdigest()
    changes[:] = [lambda p: p.write_bytes(b"4"), lambda p: p.write_bytes(b"third time")]
    refusal("E_ARTIFACT_RACE", digest_file, path)
    changes[:] = [lambda p: os.utime(p, ns=(1, 1)), lambda p: os.utime(p, ns=(2, 2))]
    refusal("E_PARAM_RACE", digest_file, path, kind="PARAM")


def test_a_replaced_file_is_a_changed_file(tmp_path, monkeypatch):
    path, new = tmp_path / "x", tmp_path / "new"
    path.write_bytes(b"aaaa")
    original, left = os.stat, [1, 1]

    def replaced(target, *args, **kwargs):
        if Path(target) == path and left:
            left.pop()
            new.write_bytes(b"bbbb")
            os.utime(new, ns=(len(left), len(left)))
            os.replace(new, path)
        return original(target, *args, **kwargs)

    monkeypatch.setattr(lineage.os, "stat", replaced)
    refusal("E_ARTIFACT_RACE", digest_file, path)


# ---- hashes

@given(CONTENTS, st.randoms())
def test_order_does_not_matter(contents, source):
    files = digests(contents)
    shuffled = source.sample(files, len(files))
    assert parameter_hash(files) == parameter_hash(iter(shuffled))
    assert manifest_fingerprint(files, GIT, PH) == manifest_fingerprint(shuffled, GIT, PH)


@given(CONTENTS, CONTENTS)
def test_different_sets_have_different_hashes(a, b):
    assert (parameter_hash(digests(a)) == parameter_hash(digests(b))) == (a == b)


@given(CONTENTS)
def test_the_formula(contents):
    sha, uer = hashlib.sha256, lambda text: len(text).to_bytes(4, "little") + text.encode("ascii")
    tuples = b"".join(sha(uer(name) + sha(contents[name]).digest()).digest() for name in sorted(contents, key=str.encode))
    assert parameter_hash(digests(contents)) == sha(tuples).hexdigest()
    assert manifest_fingerprint(digests(contents), GIT, PH) == sha(tuples + GIT + bytes.fromhex(PH)).hexdigest()


@pytest.mark.parametrize("kind, hashed", [("PARAM", parameter_hash), ("ARTIFACT", lambda files: manifest_fingerprint(files, GIT, PH))])
def test_names(kind, hashed):
    good = digests({"a": b"", "Z": b""})
    refusal(f"E_{kind}_EMPTY", hashed, [])
    for bad in ("", "é", "日"):
        refusal(f"E_{kind}_NONASCII_NAME", hashed, [*good, *digests({bad: b""})])
    assert refusal(f"E_{kind}_DUP_BASENAME", hashed, [*good, FileDigest("a", Path("elsewhere/a"), 0, "00" * 32)]).detail["filename"] == "a"


@pytest.mark.parametrize("commit", ["", "main", "a" * 39, "a" * 41, "a" * 63, "g" * 40, "a" * 40 + "\n", None, b"a" * 40, 7, " " + "a" * 39])
def test_bad_commits(commit):
    refusal("E_GIT_BYTES", git_bytes, commit)


def test_commits():
    assert git_bytes("A" * 40) == git_bytes("a" * 40) == bytes(12) + b"\xaa" * 20
    assert git_bytes("0f" * 32) == b"\x0f" * 32
    for git32 in (b"", bytes(20), bytes(33)):
        refusal("E_GIT_BYTES", manifest_fingerprint, digests({"a": b""}), git32, PH)
    for absent in (None, "", "ab", PH.upper(), PH + "\n"):
        refusal("E_PARAM_HASH_ABSENT", manifest_fingerprint, digests({"a": b""}), GIT, absent)


# ---- ids and keys

@pytest.mark.parametrize("value", [-1, 2**64, 1.0, "1", None, True])
def test_u64(value):
    refusal("E_SEED_RANGE", run_id, FP, value, 0)
    refusal("E_SEED_RANGE", run_id, FP, 0, value)
    refusal("E_SEED_RANGE", master_material, PH, value)


def test_free_run_id_counts_its_candidates():
    asked = []
    refusal("E_RUNID_COLLISION_EXHAUSTED", free_run_id, FP, 1, 5, lambda candidate: asked.append(candidate) or True)
    assert len(asked) == len(set(asked)) == 65_536 and asked[0] == run_id(FP, 1, 5)
    last = asked[-1]
    assert free_run_id(FP, 1, 5, lambda candidate: candidate != last) == (last, 5 + 65_535)


@pytest.mark.parametrize("merchant_id", [0, -1, 2**63, 1.0, "1", None, True])
def test_merchant_ids(merchant_id):
    refusal("E_SER_RANGE", merchant_u64, merchant_id)


@given(st.integers(1, 2**63 - 1))
def test_merchant_key_formula(merchant_id):
    assert merchant_u64(merchant_id) == int.from_bytes(hashlib.sha256(merchant_id.to_bytes(8, "little")).digest()[24:], "little")


@given(st.binary(min_size=32, max_size=32))
def test_root(master):
    assert root_key_counter(master) == (int.from_bytes(master[24:], "little"), int.from_bytes(master[16:24], "big"), int.from_bytes(master[24:], "big"))


# ---- the code

def test_code_digest_does_not_depend_on_the_place(tmp_path):
    copied = tmp_path / "elsewhere"
    shutil.copytree(package_root(), copied / "seg1a", ignore=shutil.ignore_patterns("__pycache__"))
    program = "from seg1a.core.lineage import code_digest; print(code_digest())"
    environment = {**os.environ, "PYTHONPATH": str(copied), "PYTHONDONTWRITEBYTECODE": "1"}

    def digest():
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment).stdout.strip()

    here = digest()
    (copied / "seg1a" / ".ipynb_checkpoints").mkdir()
    (copied / "seg1a" / ".ipynb_checkpoints" / "x.ipynb").touch()
    (copied / "seg1a" / "__pycache__").mkdir(exist_ok=True)
    (copied / "seg1a" / "__pycache__" / "x.py").touch()
    (copied / "seg1a" / "notes.txt").touch()
    assert digest() == here and len(here) == 64
    moved = tmp_path / "moved"
    (copied).rename(moved)
    environment["PYTHONPATH"] = str(moved)
    assert digest() == here
    (moved / "seg1a" / "core" / "contracts" / "codes" / "core.yaml").write_bytes(b"# changed\n")
    assert digest() != here


def test_code_digest_is_of_this_package():
    files = sorted(path for path in package_root().rglob("*") if path.suffix in (".py", ".yaml", ".ipynb") and not any(p.startswith((".", "__pycache__")) for p in path.relative_to(package_root()).parts))
    assert len(files) > 10 and len(code_digest()) == 64
