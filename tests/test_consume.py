"""Reading through the gate, near and far: what passed is handed out, exactly; what did not is not."""

import json

import pandas
import pyarrow as pa
import pytest
from store_support import Places, code_of, flipped

import seg1a
from seg1a.core.contracts import contracts
from seg1a.operations.consume import dataset_columns, duckdb_columns, polars_schema
from seg1a.operations.promote import promote
from seg1a.operations.promoted import RECORD

TOP = 2**64 - 1


@pytest.fixture
def promoted(places, passed_run) -> str:
    """A promoted run of the test's own, to be damaged."""
    return promote(passed_run, places.fresh()).uri


@pytest.fixture(scope="module", params=["file", "s3"])
def opened(request, passed_run, tmp_path_factory):
    """An open run, promoted to a folder or to a bucket; read only."""
    server = request.getfixturevalue("s3_server") if request.param == "s3" else None
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (server.environment() if server else {}).items():
            patch.setenv(name, value)
        uri = promote(passed_run, Places(request.param, tmp_path_factory.mktemp("consume"), server).fresh()).uri
        with seg1a.open_run(uri) as run:
            yield run


def test_every_dataset_of_a_run_can_be_read(opened, passed_run):
    assert opened.promoted and opened.identity == json.loads((passed_run / "run_root.json").read_bytes())
    rows = {row["path"]: row["rows"] for row in json.loads(next(passed_run.glob("validation_bundle/*/outputs_index.json")).read_bytes())}
    for id, paths in opened.datasets().items():
        if contracts().dataset(id).format == "json":
            assert isinstance(opened.document(id), dict)
            continue
        table = opened.table(id)
        assert table.num_rows == sum(rows[path] for path in paths) > 0 and table.schema.names == dataset_columns(id).names, id
        assert opened.dataset(id).count_rows() == table.num_rows
        frame = opened.frame(id)
        assert isinstance(frame, pandas.DataFrame) and len(frame) == table.num_rows
    assert opened.events("nb_final", ["merchant_id", "n_outlets"]).column_names == ["merchant_id", "n_outlets"]


def test_rows_are_those_of_the_run(opened, passed_run):
    (part,) = passed_run.glob("logs/rng/events/nb_final/*/*/*/*.jsonl")
    assert opened.events("nb_final").to_pylist() == [json.loads(line) for line in part.read_text().splitlines()]


def test_a_kept_cache_is_used_again_and_checked(promoted, places, tmp_path):
    with seg1a.open_run(promoted, cache=tmp_path / "cache") as run:
        (path,) = run.paths("s3_candidate_set")
        assert run.paths("s3_candidate_set") == [path]
    if places.kind == "s3":
        assert path.is_relative_to(tmp_path / "cache") and path.exists()
        path.write_bytes(flipped(path.read_bytes()))
        with seg1a.open_run(promoted, cache=tmp_path / "cache") as run:
            assert code_of(run.paths, "s3_candidate_set") == "E_GATE_MISMATCH"


def test_a_flipped_byte_is_not_handed_out(promoted, places):
    """Every file that a reader can be given, and every file of the bundle and the record."""
    there = places.files(promoted)
    refused = []
    paths = [path for path in there if path.startswith(("parameter_scoped/", "logs/rng/", "validation_bundle/")) or path == RECORD]
    for path in sorted(paths)[::1 if places.kind == "file" else 6]:
        places.put(promoted, path, flipped(there[path], len(there[path]) // 3))
        try:
            with seg1a.open_run(promoted) as run:
                id, _ = contracts().identify(path)
                run.paths(id)
        except seg1a.NotPassed:
            refused.append(path)
        else:
            pytest.fail(f"{path} was handed out")
        places.put(promoted, path, there[path])
    assert len(refused) >= 10


def test_a_file_that_changes_after_the_opening(promoted, places):
    there = places.files(promoted)
    path = next(path for path in there if path.endswith("s3_candidate_set.parquet"))
    with seg1a.open_run(promoted) as run:
        places.put(promoted, path, flipped(there[path]))
        assert code_of(run.table, "s3_candidate_set") == "E_GATE_MISMATCH"
        assert run.events("nb_final").num_rows > 0


def test_no_record_no_read(promoted, places):
    places.remove(promoted, RECORD)
    with pytest.raises(seg1a.NotPassed) as caught:
        seg1a.open_run(promoted)
    assert caught.value.code == "E_NOT_PROMOTED"


def test_nothing_is_there(places):
    with pytest.raises(seg1a.NotPassed):
        seg1a.open_run(places.fresh())


def test_a_run_root_of_ones_own(passed_run):
    with seg1a.open_run(passed_run) as run:
        assert not run.promoted and run.table("s3_candidate_set").num_rows > 0


# ---- large numbers in other readers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def late_large_counter(passed_run, tmp_path_factory) -> tuple[str, dict]:
    """A part of 30 000 rows whose last counter is 2^64 - 1: far behind where readers stop guessing."""
    (part,) = passed_run.glob("logs/rng/events/nb_final/*/*/*/*.jsonl")
    row = json.loads(part.read_bytes().splitlines()[0])
    folder = tmp_path_factory.mktemp("large") / f"seed={2**63 + 7}" / "x"
    folder.mkdir(parents=True)
    rows = [row | {"rng_counter_before_lo": number, "rng_counter_after_lo": number} for number in range(30_000)]
    rows[-1] |= {"rng_counter_before_lo": TOP, "rng_counter_after_lo": TOP, "rng_counter_before_hi": TOP}
    (folder / "part.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(folder / "part.jsonl"), rows[-1]


def test_polars_reads_the_largest_numbers(late_large_counter):
    polars = pytest.importorskip("polars")
    path, last = late_large_counter
    frame = polars.scan_ndjson([path], schema=polars_schema("rng_event_nb_final")).collect()
    assert frame.row(-1, named=True) == last and frame["seed"].unique().to_list() == [2**63 + 7]
    with pytest.raises(polars.exceptions.PolarsError):  # the trap that the schema is for
        polars.scan_ndjson([path]).collect()


def test_duckdb_reads_the_largest_numbers(late_large_counter):
    duckdb = pytest.importorskip("duckdb")
    path, last = late_large_counter
    rows = duckdb.read_json([path], columns=duckdb_columns("rng_event_nb_final"), format="newline_delimited", hive_partitioning=False)
    table = rows.to_arrow_table()
    assert table.slice(table.num_rows - 1).to_pylist() == [last]
    assert table.schema.field("seed").type == pa.uint64() and set(table["seed"].to_pylist()) == {2**63 + 7}


def test_arrow_reads_the_largest_numbers(late_large_counter):
    import pyarrow.dataset

    path, last = late_large_counter
    table = pyarrow.dataset.dataset([path], schema=dataset_columns("rng_event_nb_final"), format="json").to_table()
    assert table.slice(table.num_rows - 1).to_pylist() == [last]


def test_schemas_fit_every_table_and_log_of_a_run(passed_run):
    polars, duckdb = pytest.importorskip("polars"), pytest.importorskip("duckdb")
    with seg1a.open_run(passed_run) as run:
        for id in [id for id in run.datasets() if contracts().dataset(id).format == "jsonl"]:
            paths, table = [str(path) for path in run.paths(id)], run.table(id)
            assert polars.scan_ndjson(paths, schema=polars_schema(id)).collect().to_dicts() == table.to_pylist(), id
            assert duckdb.read_json(paths, columns=duckdb_columns(id), format="newline_delimited", hive_partitioning=False).to_arrow_table().to_pylist() == table.to_pylist(), id
        for id in [id for id in run.datasets() if contracts().dataset(id).format == "parquet"]:
            assert polars.read_parquet(run.paths(id), hive_partitioning=False).to_dicts() == run.table(id).to_pylist(), id
