"""Whole runs, as an operator types them: the same bytes anywhere, a seal that holds, refusals that leave only evidence."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_support import FLAGS, LANES, UNSEALED, last_line, run_root, sealed_files

OPERATOR = "operator-zq81"  # the user's name, and in the path of the home folder: a word that nothing else would write


@pytest.fixture(scope="module")
def two_runs(seg1a, sharded_pack, tmp_path_factory):
    """The same run twice: other folder, other working folder, other number of workers."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "another-place")]
    cache = os.environ.get("SEG1A_CACHE_DIR") or str(Path.home() / ".cache" / "seg1a")
    someone = {"USER": OPERATOR, "LOGNAME": OPERATOR, "SEG1A_CACHE_DIR": cache}
    for folder in folders:
        (folder / OPERATOR).mkdir()
    done = [
        seg1a("run", "--pack", sharded_pack, "--output-dir", folder / "out", "--workers", workers, *FLAGS, *LANES, cwd=folder, HOME=str(folder / OPERATOR), **someone)
        for folder, workers in zip(folders, (1, 2))
    ]
    return [run_root(one) for one in done]


def test_two_folders_and_worker_counts_give_the_same_sealed_bytes(two_runs):
    one, two = map(sealed_files, two_runs)
    assert [name for name in one.keys() | two.keys() if one.get(name) != two.get(name)] == []
    assert any(name.endswith("part-s1-00002.jsonl") for name in one), "the universe must have several shards"
    assert {name.rpartition("/")[2] for name in one} >= {f"s{state}.ipynb" for state in range(5)} | {"s3_site_sequence.parquet", "s3_eligibility.parquet", "rng_trace_log.jsonl"}


def test_nothing_of_the_machine_is_in_the_sealed_tree(two_runs):
    needles = [platform.node(), OPERATOR, str(two_runs[0]), str(two_runs[0].parents[2]), sys.prefix, sys.base_prefix]
    needles = [needle.encode() for needle in needles if len(needle) > 3]
    for path in two_runs[0].rglob("*"):
        name = path.relative_to(two_runs[0]).as_posix()
        if path.is_file() and not name.startswith(UNSEALED):
            data = path.read_bytes()
            assert [needle for needle in needles if needle in data] == [], name


def test_verify_and_sha256sum_accept_the_run(two_runs, seg1a):
    done = seg1a("verify", two_runs[0])
    assert (done.returncode, last_line(done)) == (0, f"PASS {two_runs[0]}")
    (bundle,) = (two_runs[0] / "validation_bundle").iterdir()
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=bundle).returncode == 0


def test_latest_points_at_the_run(two_runs):
    assert (two_runs[0].parents[1] / "latest").resolve() == two_runs[0].resolve()


@pytest.mark.parametrize("pattern", ["parameter_scoped/**/*.parquet", "logs/rng/events/**/*.jsonl", "logs/rng/trace/**/*.jsonl", "validation_bundle/**/*.json", "validation_bundle/**/*.ipynb", "validation_bundle/**/_passed.flag"])
def test_one_changed_byte_is_found(two_runs, seg1a, pattern):
    path = sorted(two_runs[1].glob(pattern))[-1]
    before = path.read_bytes()
    try:
        path.write_bytes(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])
        done = seg1a("verify", two_runs[1])
        assert done.returncode == 1 and last_line(done).startswith("FAIL E_VERIFY_FAILED")
    finally:
        path.write_bytes(before)
    assert seg1a("verify", two_runs[1]).returncode == 0


def test_in_process_run_gives_the_same_data(two_runs, in_process_run):
    data = [{name: digest for name, digest in sealed_files(root).items() if name.startswith(("parameter_scoped/", "logs/"))} for root in (two_runs[0], in_process_run)]
    assert data[0] == data[1] and len(data[0]) > 20


def test_run_summary_says_what_happened(two_runs):
    summary = json.loads((two_runs[0] / "run_summary.json").read_text())
    assert summary["gate"]["status"] == "PASS" and summary["run"]["failure"] is None
    assert all(summary[f"s{state}"]["passed"] for state in range(5))


# ---- refusals -------------------------------------------------------------------------------------------------------


def merchants(pack: Path) -> pa.Table:
    (path,) = pack.rglob("transaction_schema_merchant_ids.parquet")
    return pq.read_table(path)


def with_merchants(pack: Path, folder: Path, change) -> tuple:
    path = folder / "merchants.parquet"
    rows = merchants(pack).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=merchants(pack).schema), path)
    return ("--merchant-table", path)


def with_policy(pack: Path, folder: Path, name: str, old: str, new: str) -> tuple:
    (path,) = pack.rglob(name)
    text = path.read_text()
    assert text.count(old) >= 1, f"{old!r} is not in {name}"
    (folder / name).write_text(text.replace(old, new, 1))
    return ("--validation-policy", folder / name) if name == "validation_policy.yaml" else ("--param", f"{name}={folder / name}")


def unknown_country(pack, folder):
    return with_merchants(pack, folder, lambda rows: rows[17].update(home_country_iso="QQ"))


def duplicate_merchant(pack, folder):
    return with_merchants(pack, folder, lambda rows: rows[17].update(merchant_id=rows[250]["merchant_id"]))


def short_coefficients(pack, folder):
    (path,) = pack.rglob("hurdle_coefficients.yaml")
    from ruamel.yaml import YAML

    document = YAML(typ="safe", pure=True).load(path.read_text())
    document["beta"] = document["beta"][:-1]
    document = {key: document[key] for key in ("semver", "version", "dicts", "beta", "beta_mu")}
    (folder / path.name).write_text(json.dumps(document))
    return ("--param", f"{path.name}={folder / path.name}")


def duplicate_key(pack, folder):
    return with_policy(pack, folder, "policy.s4.hyperparams.yaml", "semver:", 'semver: "9.9.9"\nsemver:')


def tight_corridor(pack, folder):
    return with_policy(pack, folder, "validation_policy.yaml", "rho_reject_max: 0.06", "rho_reject_max: 0.0001")


REFUSALS = {
    "unknown_country": (unknown_country, "E_FK_HOME_ISO", "S0"),
    "duplicate_merchant": (duplicate_merchant, "E_INGRESS_PK_DUP", "S0"),
    "short_coefficients": (short_coefficients, "E_DSGN_SHAPE_MISMATCH", "S0"),
    "duplicate_key": (duplicate_key, "ERR_S4_POLICY_INVALID", None),
    "tight_corridor": (tight_corridor, "corridor_breach:rho", "S2"),
}


@pytest.mark.parametrize(("case", "notebooks"), [*((case, ("--no-notebooks",)) for case in REFUSALS), ("duplicate_merchant", ()), ("tight_corridor", ())])
def test_refusal_leaves_evidence_and_nothing_else(seg1a, small_pack, tmp_path, case, notebooks):
    change, code, state = REFUSALS[case]
    done = seg1a("run", "--pack", small_pack, "--output-dir", tmp_path / "out", *change(small_pack, tmp_path), *FLAGS, *notebooks)
    assert done.returncode == 1 and last_line(done).split()[:2] == ["FAIL", code], last_line(done) + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    (record,) = (tmp_path / "out").rglob("failure.json")
    written = json.loads(record.read_text())
    assert written["error_code"] == code and state in (None, written["state"])
    (summary,) = (tmp_path / "out").rglob("run_summary.json")
    assert json.loads(summary.read_text())["run"]["failure"]["code"] == code
    left = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")]
    assert not [name for name in left if "_tmp" in name]
    assert not list((tmp_path / "out").glob("*/*/validation_bundle/*/_passed.flag")) and not (tmp_path / "out" / "latest").exists()
    if state == "S0":
        assert not [name for name in left if "parameter_scoped/" in name or "/events/" in name]


def test_verify_refuses_a_failed_run(seg1a, small_pack, tmp_path):
    seg1a("run", "--pack", small_pack, "--output-dir", tmp_path / "out", *tight_corridor(small_pack, tmp_path), *FLAGS, "--no-notebooks")
    (root,) = [path.parent for path in (tmp_path / "out").rglob("run_root.json")]
    assert seg1a("verify", root).returncode == 1


def test_a_skipped_validator_withholds_the_gate(seg1a, small_pack, tmp_path):
    done = seg1a("run", "--pack", small_pack, "--output-dir", tmp_path, "--no-validate-s4", "--no-notebooks", *FLAGS)
    verdict, _, root = last_line(done).partition(" ")
    assert (done.returncode, verdict) == (0, "WITHHELD")
    assert seg1a("verify", root).returncode == 1


def test_a_changed_pack_is_refused_before_the_run(seg1a, small_pack, tmp_path):
    shutil.copytree(small_pack, tmp_path / "pack")
    (path,) = (tmp_path / "pack").rglob("policy.s4.hyperparams.yaml")
    path.write_bytes(path.read_bytes() + b"\n")
    done = seg1a("run", "--pack", tmp_path / "pack", "--output-dir", tmp_path / "out", *FLAGS)
    assert done.returncode == 2 and last_line(done).startswith("FAIL E_PACK_")
    assert not (tmp_path / "out").exists()
