"""Worlds at the edge that are legal: nobody, one, none allowed, no chance involved, targets that could not be drawn. Each of them is a PASS."""
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seg1a.core.encoding import read_yaml
from seg1a.operations.cli import main

LANES = ("--s3-priors", "--s3-integerisation", "--s3-sequencing")
MERCHANTS = "transaction_schema_merchant_ids.parquet"
COUNTS = ("hurdle_bernoulli", "nb_final", "ztp_final", "ztp_retry_exhausted")


@pytest.fixture
def world(small_pack, tmp_path, capsys):
    "`world(changes)` -> (summary, root) of a PASS of the small pack with its policies and merchants changed."
    def run(changes: dict) -> tuple[dict, Path]:
        arguments = []
        for name, change in changes.items():
            path = tmp_path / name
            change(next(small_pack.rglob(name)), path)
            arguments += ["--merchant-table", path] if name == MERCHANTS else ["--param", f"{name}={path}"]
        places = ("--pack", small_pack, "--output-dir", tmp_path / "out", "--workers", 1)
        status = main(list(map(str, ("run", "--quiet", "--no-notebooks", *places, *arguments, *LANES))))
        verdict, _, root = capsys.readouterr().out.splitlines()[-1].partition(" ")
        assert (status, verdict) == (0, "PASS"), root
        assert main(["verify", root]) == 0
        return json.loads((Path(root) / "run_summary.json").read_text()), Path(root)
    return run


def policy(change):
    "A change of a parsed policy as a change of its file; JSON is YAML."
    def write(source: Path, target: Path) -> None:
        document = read_yaml(source.read_bytes(), source.name)
        change(document)
        target.write_text(json.dumps(document))
    return write


def rows(number):
    "The merchant table with its first rows only."
    return lambda source, target: pq.write_table(pa.table(pq.read_table(source)).slice(0, number), target)


def intercept(value):
    "Everybody's log odds of being multi-site moved to about `value`."
    return {"hurdle_coefficients.yaml": policy(lambda d: d["beta"].__setitem__(0, value))}


def events(root, family):
    "The number of rows of an event family."
    files = (root / "logs" / "rng" / "events" / family).rglob("*.jsonl") if (root / "logs" / "rng" / "events" / family).is_dir() else ()
    return sum(path.read_bytes().count(b"\n") for path in files)


def test_no_multi_site_merchant_by_chance(world):
    summary, root = world(intercept(-30.0))
    assert [events(root, family) for family in COUNTS] == [400, 0, 0, 0]
    assert summary["s1"]["metrics"]["stochastic_single"] == 400


def test_no_multi_site_merchant_by_certainty(world):
    summary, root = world(intercept(-800.0))
    assert [events(root, family) for family in COUNTS] == [400, 0, 0, 0]
    assert summary["s1"]["metrics"]["deterministic_single"] == 400 and summary["s1"]["metrics"]["draws_total"] == 0


def test_everybody_multi_site_by_certainty(world):
    summary, root = world(intercept(800.0))
    assert [events(root, family) for family in COUNTS[:2]] == [400, 400]
    assert summary["s1"]["metrics"]["deterministic_multi"] == 400 and summary["s1"]["metrics"]["draws_total"] == 0


@pytest.mark.parametrize("level, finals", [(-800.0, 0), (800.0, 1)])
def test_one_merchant(world, level, finals):
    _, root = world({MERCHANTS: rows(1)} | intercept(level))
    assert [events(root, family) for family in COUNTS[:2]] == [1, finals]


def deny(document):
    document["eligibility"] |= {"default_decision": "deny", "rules": [rule for rule in document["eligibility"]["rules"] if rule["decision"] == "deny"]}


def test_everybody_ineligible(world):
    _, root = world({"crossborder_hyperparams.yaml": policy(deny)} | intercept(800.0))
    flags = pq.read_table(next(root.rglob("crossborder_eligibility_flags.parquet")))
    assert not any(flags["is_eligible"].to_pylist())
    assert [events(root, family) for family in COUNTS] == [400, 400, 0, 0]


@pytest.mark.parametrize("wish", ["abort", "downgrade_domestic"])
def test_exhausted_targets(world, wish):
    def impatient(document):
        document["ztp_controls"] = {"MAX_ZTP_ZERO_ATTEMPTS": 1, "ztp_exhaustion_policy": wish}

    _, root = world({"policy.s4.hyperparams.yaml": policy(impatient)} | intercept(800.0))
    lines = [json.loads(line) for path in (root / "logs" / "rng" / "events" / "ztp_final").rglob("*.jsonl") for line in path.read_bytes().splitlines()]
    downgraded = [row for row in lines if row.get("exhausted")]
    assert len(lines) > 100 and all(row["K_target"] == 0 for row in downgraded)
    if wish == "abort":
        assert events(root, "ztp_retry_exhausted") > 0 and not downgraded
    else:
        assert events(root, "ztp_retry_exhausted") == 0 and downgraded
