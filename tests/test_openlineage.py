"""Lineage events of real runs, against the published schema and against the files."""

import copy
import hashlib
import json
from pathlib import Path

import pytest
from openlineage_support import RunEvent, conform

from seg1a.core.contracts import contracts
from seg1a.core.run import Options, open_run
from seg1a.operations.openlineage import dataset_version, lineage_document, run_events, run_uuid, schema_fields
from seg1a.operations.pipeline import RunRequest, run_pipeline

START = 1_700_000_000_000_000_000


@pytest.fixture(scope="module")
def root(small_pack, tmp_path_factory) -> Path:
    options = Options(s3_priors=True, s3_integerisation=True, s3_sequencing=True, notebooks=False)
    summary = run_pipeline(RunRequest(small_pack, tmp_path_factory.mktemp("lineage"), 5, "c" * 40, START, options))
    assert summary["gate"]["status"] == "PASS"
    return Path(summary["output_dir"])


@pytest.fixture(scope="module")
def events(root) -> list[dict]:
    return run_events(root)


def test_every_event_conforms_to_the_published_schema(root, events):
    lines = lineage_document(root).splitlines()
    assert [json.loads(line) for line in lines] == events and len(events) == 10
    for event in events:
        conform(RunEvent, event)
        assert event["schemaURL"] == "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"


@pytest.mark.parametrize("fault", [
    lambda event: event.update(eventType="DONE"), lambda event: event.pop("eventTime"), lambda event: event.update(eventTime="2023-11-14"),
    lambda event: event["run"].update(runId="ed37224dc4b176206dd343cc6afe3e1"), lambda event: event["job"].pop("namespace"), lambda event: event.update(more=1),
    lambda event: event["outputs"][0]["outputFacets"]["outputStatistics"].update(rowCount="5"),
    lambda event: event["outputs"][0]["outputFacets"]["outputStatistics"].update(rows=5),
    lambda event: event["outputs"][0]["facets"]["version"].pop("datasetVersion"), lambda event: event["outputs"][0]["facets"]["version"].pop("_producer"),
    lambda event: event["outputs"][0]["facets"]["schema"].update(_schemaURL="https://openlineage.io/spec/facets/9-9-9/SchemaDatasetFacet.json"),
])
def test_the_schema_check_can_fail(events, fault):
    event = copy.deepcopy(events[1])
    conform(RunEvent, event)
    fault(event)
    with pytest.raises((AssertionError, ValueError)):
        conform(RunEvent, event)


def test_versions_and_statistics_are_those_of_the_files(root, events):
    last: dict[str, dict] = {}
    for event in events:
        last.update({dataset["name"]: dataset for dataset in event["outputs"]})
    listed = json.loads(next(root.glob("validation_bundle/*/outputs_index.json")).read_bytes())
    by_id: dict[str, list[dict]] = {}
    for row in listed:
        by_id.setdefault(contracts().identify(row["path"])[0], []).append(row)
    assert last.keys() == by_id.keys() and len(by_id) >= 18
    for name, rows in by_id.items():
        rows = [row for row in rows if name != "rng_event_poisson_component" or "part-s4" in row["path"]]  # S4 wrote the last of them
        statistics = last[name]["outputFacets"]["outputStatistics"]
        observed = [hashlib.sha256((root / row["path"]).read_bytes()).hexdigest() for row in rows]
        assert last[name]["facets"]["version"]["datasetVersion"] == observed[0] and len(rows) == 1
        assert (statistics["rowCount"], statistics["size"], statistics["fileCount"]) == (rows[0]["rows"], (root / rows[0]["path"]).stat().st_size, 1)


def test_what_a_state_reads_was_written_before_or_is_in_the_pack(small_pack, events):
    manifest = {row["path"]: row["sha256"] for row in json.loads((small_pack / "pack_manifest.json").read_bytes())["artefacts"]}
    known = set(manifest.values())
    read = set()
    for event in events:
        for dataset in event["inputs"]:
            versions = {dataset["facets"]["version"]["datasetVersion"]}
            assert versions <= known, (event["job"]["name"], dataset["name"])
            read.add(dataset["name"])
        known |= {dataset["facets"]["version"]["datasetVersion"] for dataset in event["outputs"]}
    assert {"transaction_schema_merchant_ids", "hurdle_design_matrix", "rng_event_hurdle_bernoulli", "rng_event_nb_final", "s3_candidate_set"} <= read


def test_identities(root, events):
    run = open_run(root, root)
    assert {event["run"]["runId"] for event in events} == {run_uuid(run.lineage.run_id, state) for state in range(5)}
    for event in events:
        assert event["run"]["facets"]["parent"]["run"]["runId"] == run_uuid(run.lineage.run_id)
        tags = {tag["key"]: tag["value"] for tag in event["run"]["facets"]["tags"]["tags"]}
        assert tags == run.lineage.tokens()
    text = lineage_document(root)
    assert str(root).encode() not in text and b"/tmp" not in text


def test_another_run_of_the_same_pack_has_the_same_names_and_other_ids(small_pack, root, events, tmp_path):
    summary = run_pipeline(RunRequest(small_pack, tmp_path, 5, "c" * 40, START + 1, Options(s3_priors=True, s3_integerisation=True, s3_sequencing=True, notebooks=False)))
    others = run_events(summary["output_dir"])
    names = [[dataset["name"] for dataset in event["outputs"]] for event in events]
    assert [[dataset["name"] for dataset in event["outputs"]] for event in others] == names
    assert not {event["run"]["runId"] for event in others} & {event["run"]["runId"] for event in events}


def test_a_real_failure_ends_in_fail(small_pack, tmp_path, monkeypatch):
    from seg1a.core.errors import Seg1aError
    from seg1a.states import s3_crossborder

    def stop(run):
        raise Seg1aError("ERR_S3_PRECONDITION", f"a message with {tmp_path}")

    monkeypatch.setattr(s3_crossborder, "run_s3", stop)
    summary = run_pipeline(RunRequest(small_pack, tmp_path, 5, "c" * 40, START, Options(notebooks=False)))
    assert summary["gate"]["status"] == "FAIL"
    events = run_events(summary["output_dir"])
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"] * 3 + ["START", "FAIL"]
    for event in events:
        conform(RunEvent, event)
    assert str(tmp_path) not in json.dumps(events)


def test_a_run_that_failed_before_it_was_sealed_conforms(tmp_path, small_pack):
    summary = run_pipeline(RunRequest(small_pack, tmp_path, 5, "c" * 40, START, Options(notebooks=False), expect_parameter_hash="0" * 64))
    events = run_events(summary["output_dir"])
    assert [event["eventType"] for event in events] == ["START", "FAIL"]
    for event in events:
        conform(RunEvent, event)


def test_every_dataset_of_the_dictionary_has_typed_fields():
    for name, record in contracts().datasets().items():
        fields = schema_fields(name)
        assert all(field["name"] and field["type"] for field in fields)
        if record.root == "run" and record.section in ("parameter_scoped", "rng_events", "rng_core"):
            assert fields, name


def test_versions_do_not_depend_on_the_order_of_the_parts():
    from seg1a.core.tables import OutputRecord

    parts = [OutputRecord(f"part-{i}", f"{i}" * 64, i, i) for i in range(3)]
    assert dataset_version(parts) == dataset_version(parts[::-1]) != dataset_version(parts[:2])
