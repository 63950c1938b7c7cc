"""Findings are complete: every wrong row is listed on disk and counted; the fast schema check says what the validator says."""

import copy
import json
import random
import time

import pytest
from s1_s2_support import VECTORS, lineage_of, miniature_run, universe

from seg1a.core.contracts import contracts
from seg1a.core.errors import Seg1aError
from seg1a.core.event_checks import _leaves, _schema_kind, schema_faults
from seg1a.core.events import part_path
from seg1a.core.shards import SHARD
from seg1a.states.s1_hurdle import run_s1

ODD = [None, True, -1, 0, 2**64, 1.0, -0.5, 1.5, "", "x", "0" * 64, [], {"a": 1}]


def rows_of(stream) -> dict:
    """A row of a stream that passes its schema."""
    numbers = {f"rng_counter_{side}_{word}": 5 for side in ("before", "after") for word in ("hi", "lo")}
    row = {"seed": 7, "parameter_hash": "a" * 64, "manifest_fingerprint": "b" * 64, "run_id": "c" * 32, "ts_utc": "2024-01-01T00:00:00.000000Z",
           "module": stream.module, "substream_label": stream.label, "blocks": 1, "draws": "1", "merchant_id": 9} | numbers
    return row | ({"context": stream.context} if stream.context else {})


def slow(dataset_id: str, row: dict) -> list[tuple[str, str]]:
    errors = [leaf for error in contracts().row_validator(dataset_id).iter_errors(row) for leaf in _leaves(error)]
    return [(_schema_kind(error, row), error.message[:200]) for error in errors]


@pytest.mark.parametrize("stream", contracts().streams().values(), ids=lambda s: s.id)
def test_remembered_shapes_give_the_faults_of_the_validator(stream):
    draw = random.Random(1)
    schema = contracts().row_schema(stream.dataset_id)
    payload = sorted({name for branch in schema.get("oneOf", [schema]) for name in branch["properties"]})
    for _ in range(300):
        row = rows_of(stream) | {name: draw.choice([0.5, 1, True, "inversion", 0]) for name in payload if name not in rows_of(stream)}
        for name in draw.sample(sorted(row), draw.choice([0, 1, 1, 2, 3])):
            row[name] = draw.choice(ODD)
        for name in draw.sample(sorted(row), draw.choice([0, 0, 0, 1])):
            del row[name]
        if draw.random() < 0.1:
            row["stranger"] = 1
        before = copy.deepcopy(row)
        assert schema_faults(stream.dataset_id, row) == slow(stream.dataset_id, row) and row == before


@pytest.mark.parametrize("rows", [33_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_every_wrong_row_is_counted_and_listed(tmp_path, rows):
    whole = VECTORS["end_to_end"]["input"]
    files = {"hurdle_coefficients.yaml": whole["hurdle_coefficients"], "nb_dispersion_coefficients.yaml": whole["nb_dispersion_coefficients"],
             "validation_policy.yaml": {"semver": "1.0.0", "version": "1", "s2": whole["policy"]}}
    run = miniature_run(tmp_path, lineage_of(whole["run"]), universe(rows, whole["hurdle_coefficients"]), files)
    run_s1(run)
    (run.state_bundle(1) / "_passed.flag").unlink()
    wrong = {"schema": set(), "lineage": set()}
    for shard in range(-(-rows // SHARD)):  # values that all differ, and one wrong text in every row
        check, old, new = ("schema", b'"u":', b'"u":-') if shard % 2 else ("lineage", b'"substream_label":"hurdle_bernoulli"', b'"substream_label":"gumbel_key"')
        path = part_path(run, "hurdle_bernoulli", shard)
        lines = path.read_bytes().splitlines(keepends=True)
        wrong[check] |= {(run.relative(path), row) for row in range(len(lines))}
        path.write_bytes(b"".join(line.replace(old, new) for line in lines))
    start = time.perf_counter()
    with pytest.raises(Seg1aError):
        run_s1(run)
    print(f"{rows} wrong rows: {time.perf_counter() - start:.1f} s")
    failures = [json.loads(line) for line in open(run.state_bundle(1) / "failures.jsonl", "rb")]
    report = json.loads((run.state_bundle(1) / "report.json").read_bytes())["validators"]
    assert sum(map(len, wrong.values())) == rows
    for check, places in wrong.items():
        mine = [row for row in failures if row["check"] == check]
        assert {(row["file"], row["row"]) for row in mine} == places
        assert report[check]["failures_count"] == len(mine) and len(report[check]["samples"]) == 100
    assert sum(group["failures_count"] for group in report.values()) == len(failures)
