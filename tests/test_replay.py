"""A promoted run, made again: equal with all its notebooks; refused with another pack; told apart to the row and the merchant."""

import json
import shutil
from pathlib import Path

import pytest
from store_support import code_of
from tamper_support import Forger

from seg1a.core.run import Options
from seg1a.inputs.pack import overlay_pack
from seg1a.operations import replay as replay_module
from seg1a.operations.cli import main
from seg1a.operations.pipeline import RunRequest, run_pipeline
from seg1a.operations.promote import promote
from seg1a.operations.replay import replay

POLICY = "policy.s4.hyperparams.yaml"


def no_run(monkeypatch) -> None:
    """From here on, a run that is begun is a failure."""
    monkeypatch.setattr(replay_module, "run_pipeline", lambda *args, **more: pytest.fail("a run was begun"))


def test_a_run_with_notebooks_is_equal(s3_server, small_pack, tmp_path, monkeypatch, capsys):
    """From a bucket to a bucket, all lanes of S3, every executed notebook among the files that are compared."""
    from store_support import Places

    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    pack = Places("s3", tmp_path, s3_server).upload(small_pack)
    flags = ["--s3-priors", "--s3-integerisation", "--s3-sequencing", "--seed", str(2**63 + 7), "--quiet"]
    assert main(["run", "--pack", pack, "--output-dir", str(tmp_path / "runs"), *flags]) == 0
    assert main(["promote", str(tmp_path / "runs/latest"), "s3://bucket/replayed", "--quiet"]) == 0
    uri = capsys.readouterr().out.splitlines()[-1].partition(" ")[2]
    assert main(["replay", uri, "--pack", pack, "--workers", "1", "--json", "--quiet"]) == 0
    document, line = capsys.readouterr().out.splitlines()
    assert line == f"EQUAL {uri}"
    sealed = [path for path in (tmp_path / "runs/latest").resolve().rglob("*") if path.is_file() and "telemetry" not in path.parts and path.name != "run_summary.json"]
    assert json.loads(document)["files"] == len(sealed) and sum(path.suffix == ".ipynb" for path in sealed) == 5


def test_other_bytes_of_the_pack_are_refused_before_any_draw(places, passed_run, small_pack, tmp_path, monkeypatch):
    uri = promote(passed_run, places.fresh()).uri
    text = next(small_pack.rglob(POLICY)).read_bytes()
    changed = text.replace(b"theta0: -1.0", b"theta0: -1.1")
    assert changed != text
    rebuilt = overlay_pack(small_pack, {POLICY: changed}, tmp_path / "rebuilt", "test")  # one coefficient, the same version
    shutil.copytree(small_pack, tmp_path / "edited")
    next((tmp_path / "edited").rglob(POLICY)).write_bytes(changed)
    no_run(monkeypatch)
    assert code_of(replay, uri, places.upload(rebuilt), tmp_path / "out") == "E_PACK_FOREIGN"
    assert code_of(replay, uri, places.upload(tmp_path / "edited"), tmp_path / "out") == "E_PACK_DIGEST"
    assert not (tmp_path / "out").exists()


def test_other_code_is_refused_before_any_draw(passed_run, small_pack, tmp_path, monkeypatch):
    uri = promote(passed_run, tmp_path / "kept").uri
    no_run(monkeypatch)
    monkeypatch.setattr(replay_module, "code_digest", lambda: "0" * 64)
    assert code_of(replay, uri, small_pack) == "E_REPLAY_CODE"


@pytest.fixture(scope="module")
def forged(passed_run, small_pack, tmp_path_factory) -> tuple[str, int]:
    """A run of which one event was changed and everything sealed anew; its place, and the merchant."""
    root = tmp_path_factory.mktemp("forged") / passed_run.parent.name / passed_run.name
    shutil.copytree(passed_run, root)
    (part,) = root.glob("logs/rng/events/nb_final/*/*/*/*.jsonl")
    lines = part.read_bytes().splitlines(keepends=True)
    row = json.loads(lines[5])
    lines[5] = lines[5].replace(b'"n_outlets":%d' % row["n_outlets"], b'"n_outlets":%d' % (row["n_outlets"] + 1))
    Forger(root, small_pack).forge({part.relative_to(root).as_posix(): b"".join(lines)})
    flag = next(root.glob("validation_bundle/*/_passed.flag")).read_text().split()[-1]
    summary = json.loads((root / "run_summary.json").read_bytes())
    summary["gate"]["flag_sha256_hex"] = flag
    (root / "run_summary.json").write_text(json.dumps(summary))
    return promote(root, tmp_path_factory.mktemp("kept")).uri, row["merchant_id"]


@pytest.mark.parametrize("flags", [[], ["--data-only"]])
def test_a_forged_event_is_found_with_its_merchant(forged, small_pack, capsys, flags):
    """Its seal holds: only making the run again can tell."""
    uri, merchant = forged
    assert main(["verify", uri]) == 0
    assert main(["replay", uri, "--pack", str(small_pack), "--quiet", *flags]) == 1
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"DIFFERENT {uri}: rng_event_nb_final, row 5, merchant {merchant}: n_outlets was ")


def test_data_only_under_other_code(passed_run, small_pack, tmp_path, monkeypatch):
    """Another version of the package names other code in what it seals, and draws the same universe."""
    from seg1a.states import s0_foundations, s0_validate

    uri = promote(passed_run, tmp_path / "kept").uri
    for module in (replay_module, s0_foundations, s0_validate):
        if hasattr(module, "code_digest"):
            monkeypatch.setattr(module, "code_digest", lambda: "0" * 64)
    done = replay(uri, small_pack, data_only=True)
    assert done.equal, done.differences
    assert done.files > 12
    assert code_of(replay, uri, small_pack) == "E_REPLAY_CODE"


def test_a_run_whose_id_was_taken_and_one_that_was_proved_late(small_pack, tmp_path):
    """The same start time twice, and a validator that was switched off: stamp and proof come out as they were."""
    from seg1a.operations.late_proof import renew_summary, seal_late

    request = RunRequest(small_pack, tmp_path / "runs", 5, "cd" * 20, 1_700_000_000_000_000_000, Options(notebooks=False, validate=(True, True, False, True, True)))
    roots = [Path(run_pipeline(request)["output_dir"]) for _ in range(2)]
    assert roots[0] != roots[1]
    gate = seal_late(roots[1], lambda: small_pack)
    renew_summary(roots[1], gate)
    assert json.loads((roots[1] / "run_summary.json").read_bytes())["gate"]["status"] == "PASS"
    done = replay(promote(roots[1], tmp_path / "kept").uri, small_pack, tmp_path / "again")
    assert done.equal, done.differences
    assert done.root.name == roots[1].name and done.root.is_relative_to(tmp_path / "again") and done.root.exists()


def test_the_rest_is_compared_when_some_has_expired(places, passed_run, small_pack):
    from seg1a.inputs.pack import default_policies
    from seg1a.operations.retain import apply_retention, plan_retention, read_policy

    dest, policy = places.fresh(), read_policy(default_policies() / "retention.yaml")
    uri = promote(passed_run, dest, now_ns=1).uri
    record = promote(passed_run, dest).record
    places.put(f"{dest}/manifest_fingerprint={'0' * 64}/seed=1/run_id={'0' * 32}", "promotion_record.json",
               json.dumps(record | {"manifest_fingerprint": "0" * 64, "seed": 1, "run_id": "0" * 32, "promoted_utc_ns": 2}).encode())  # a newer run
    plan = plan_retention(dest, policy, 400 * 86_400 * 10**9)
    assert {one.kind for one in plan} == {"rng_audit_log", "rng_events", "rng_trace_log", "telemetry"}
    apply_retention(dest, plan, policy)
    done = replay(uri, small_pack)
    assert done.equal, done.differences
    assert done.files < len(record["files"])
