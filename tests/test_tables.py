"""Tables: bytes as a function of rows, defects by name, concurrency of nothing, damage."""
import hashlib
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seg1a.core.contracts import contracts
from seg1a.core.errors import Seg1aError
from seg1a.core.run import Lineage, Options, Run
from seg1a.core.tables import (MerchantAbort, OutputRecord, TableSink, check_embedding, publish_outputs, read_aborts, read_outputs,
                               read_parquet, read_row_groups, read_table, table_of, write_aborts, write_json)

LINEAGE = Lineage(7, "ab" * 32, "cd" * 32, "ef" * 16, 1_700_000_000_000_000_000)
CANDIDATES = "s3_candidate_set"


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "root", tmp_path, LINEAGE, Options(), "0" * 40)


def candidates(rows, seed=0, first=1):
    "A candidate-set table with lists, dictionaries and nulls, a function of its arguments."
    rng = random.Random(seed)
    isos, tags = ["GB", "FR", "NO", "DE"], ["EEA", "HOME", "CORE", "NORDIC"]
    return table_of(CANDIDATES, {
        "merchant_id": np.arange(first, first + rows), "country_iso": [rng.choice(isos) for _ in range(rows)],
        "candidate_rank": np.arange(rows, dtype=np.int32), "is_home": np.arange(rows) == 0,
        "reason_codes": [["CLASS_A"]] * rows, "filter_tags": [sorted(rng.sample(tags, rng.randrange(4))) for _ in range(rows)],
        "parameter_hash": "ab" * 32, "produced_by_fingerprint": [rng.choice([None, "cd" * 32]) for _ in range(rows)]})


def refusal(action, *args, **kwargs):
    with pytest.raises(Seg1aError) as caught:
        action(*args, **kwargs)
    return caught.value


def write(run, dataset_id, *batches, **options):
    with TableSink(run, dataset_id, **options) as sink:
        for batch in batches:
            sink.write(batch)
    return sink.record


def as_dictionary(table, shuffle):
    "The same rows, text columns as dictionary arrays with surplus values in another order."
    for i, field in enumerate(contracts().arrow_schema(CANDIDATES)):
        if pa.types.is_string(field.type):
            values = sorted({v for v in table[field.name].to_pylist() if v is not None}) + ["ZZ_UNUSED"]
            random.Random(shuffle).shuffle(values)
            codes = [None if v is None else values.index(v) for v in table[field.name].to_pylist()]
            table = table.set_column(i, field.name, pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(values)))
    return table


def test_record_describes_the_file(run):
    record = write(run, CANDIDATES, candidates(10), candidates(5, first=11))
    data = run.path(CANDIDATES).read_bytes()
    assert record == OutputRecord(run.relative(run.path(CANDIDATES)), hashlib.sha256(data).hexdigest(), len(data), 15)


def test_one_write_is_one_row_group_whatever_its_size(run):
    big = 1_200_000
    table = table_of("hurdle_pi_probs", {"merchant_id": np.arange(1, big + 1), "logit": np.zeros(big, np.float32),
                                         "pi": np.full(big, 0.5, np.float32), "parameter_hash": "ab" * 32, "produced_by_fingerprint": None})
    write(run, "hurdle_pi_probs", table, table.slice(0, 0), table.slice(0, 3))
    metadata = pq.ParquetFile(run.path("hurdle_pi_probs")).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [big, 3]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 60), seed=st.integers(0, 99), shuffle=st.integers(0, 99), cut=st.integers(0, 60))
def test_bytes_do_not_depend_on_the_representation(tmp_path, rows, seed, shuffle, cut):
    table = candidates(rows, seed)
    forms = [table, as_dictionary(table, shuffle), pa.concat_tables([table.slice(0, cut), table.slice(cut)]),
             table.select(sorted(table.column_names)), pa.concat_tables([candidates(9, 5), table]).slice(9),
             table.replace_schema_metadata({"pandas": "{}"}), table.combine_chunks().to_batches()[0]]
    digests = set()
    for i, form in enumerate(forms):
        run = Run(tmp_path / f"{rows}_{seed}_{shuffle}_{cut}_{i}", tmp_path, LINEAGE, Options(), "0" * 40)
        digests.add(write(run, CANDIDATES, form).sha256)
        assert read_table(run, CANDIDATES).to_pylist() == table.to_pylist()
    assert len(digests) == 1


def test_list_columns_with_dictionary_items_give_the_same_bytes(run, tmp_path):
    plain = candidates(50, 3)
    inner = plain["filter_tags"].combine_chunks()
    coded = pa.ListArray.from_arrays(inner.offsets, inner.values.dictionary_encode())
    columns = {name: plain[name] for name in plain.column_names} | {"filter_tags": coded}
    other = Run(tmp_path / "other", tmp_path, LINEAGE, Options(), "0" * 40)
    assert write(run, CANDIDATES, plain).sha256 == write(other, CANDIDATES, table_of(CANDIDATES, columns)).sha256


def test_no_library_metadata_and_contract_types_survive(run):
    write(run, CANDIDATES, candidates(4).replace_schema_metadata({"pandas": "x"}))
    file = pq.ParquetFile(run.path(CANDIDATES))
    assert file.metadata.metadata is None and file.schema_arrow.equals(contracts().arrow_schema(CANDIDATES), check_metadata=True)
    assert {file.metadata.row_group(0).column(i).compression for i in range(file.metadata.num_columns)} == {"ZSTD"}
    assert all("RLE_DICTIONARY" in file.metadata.row_group(0).column(i).encodings for i in (0, 1, 4, 5, 6))


@pytest.mark.parametrize("id", [i for i, r in contracts().datasets().items() if r.format == "parquet" and r.root == "run"])
def test_every_table_may_be_empty(run, id):
    record = write(run, id)
    assert record.rows == 0 and pq.ParquetFile(run.path(id)).num_row_groups == 0
    assert read_table(run, id).equals(contracts().arrow_schema(id).empty_table()) and list(read_row_groups(run, id)) == []


def test_existing_file_same_bytes_no_op_other_bytes_refused(run):
    first = write(run, CANDIDATES, candidates(4))
    before = run.path(CANDIDATES).stat()
    assert write(run, CANDIDATES, candidates(4)) == first
    after = run.path(CANDIDATES).stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert refusal(write, run, CANDIDATES, candidates(5)).code == "E_PARTITION_EXISTS"
    assert hashlib.sha256(run.path(CANDIDATES).read_bytes()).hexdigest() == first.sha256
    assert [p.name for p in run.path(CANDIDATES).parent.iterdir()] == ["s3_candidate_set.parquet"]


def test_an_exception_inside_the_block_leaves_nothing(run):
    with pytest.raises(ZeroDivisionError):
        with TableSink(run, CANDIDATES) as sink:
            sink.write(candidates(3))
            1 / 0
    assert not [p for p in run.root.rglob("*") if p.is_file()] and sink.record is None


def column(table, name, array):
    return table.set_column(table.column_names.index(name), name, array)


@pytest.mark.parametrize("name, damage", [
    ("merchant_id", lambda t: column(t, "merchant_id", t["merchant_id"].cast(pa.uint64()))),
    ("merchant_id", lambda t: column(t, "merchant_id", pa.array([1, None, 3], pa.int64()))),
    ("merchant_id", lambda t: column(t, "merchant_id", pa.array([1.0, 2.0, 3.0]))),
    ("candidate_rank", lambda t: column(t, "candidate_rank", pa.array([0, 1, 2], pa.int64()))),
    ("filter_tags", lambda t: column(t, "filter_tags", pa.array([["A"], [None], []]))),
    ("filter_tags", lambda t: column(t, "filter_tags", pa.array([["A"], None, []], pa.list_(pa.string())))),
    ("country_iso", lambda t: t.drop_columns(["country_iso"])),
    ("country_iso", lambda t: t.append_column("country_iso", t["country_iso"])),
])
def test_producer_is_told_which_column_is_wrong(run, name, damage):
    error = refusal(write, run, CANDIDATES, damage(candidates(3)))
    assert error.code == "E_TABLE_SCHEMA" and error.detail["field"] == name
    assert not run.path(CANDIDATES).exists()


def test_surplus_column_is_refused(run):
    assert refusal(write, run, CANDIDATES, candidates(3).append_column("x", pa.array([1, 2, 3]))).code == "E_TABLE_SCHEMA"


@pytest.mark.parametrize("columns", [
    {"merchant_id": [1, 2], "logit": [0.0], "pi": 0.5}, {"merchant_id": [2**63], "logit": 0.0, "pi": 0.5},
    {"merchant_id": ["x"], "logit": 0.0, "pi": 0.5}, {"merchant_id": 1, "logit": 0.0, "pi": 0.5}])
def test_table_of_refuses_what_does_not_fit(columns):
    assert refusal(table_of, "hurdle_pi_probs", {**columns, "parameter_hash": "ab" * 32, "produced_by_fingerprint": None}).code == "E_TABLE_SCHEMA"


def test_table_of_keeps_64_bit_ids_exact(run):
    ids = np.array([1, 2**53 + 1, 2**63 - 1])
    write(run, "hurdle_pi_probs", table_of("hurdle_pi_probs", {"merchant_id": ids, "logit": np.float32(0.1) * np.ones(3, np.float32),
                                                                "pi": 0.5, "parameter_hash": "ab" * 32, "produced_by_fingerprint": None}))
    assert read_table(run, "hurdle_pi_probs", ["merchant_id"])["merchant_id"].to_numpy().tolist() == ids.tolist()


def test_reader_takes_columns_in_the_order_asked_and_dictionaries_when_asked(run):
    table = candidates(6)
    write(run, CANDIDATES, table.slice(0, 4), table.slice(4))
    assert read_table(run, CANDIDATES, ["is_home", "merchant_id"]).column_names == ["is_home", "merchant_id"]
    groups = list(read_row_groups(run, CANDIDATES, ["country_iso"], dictionary=True))
    assert [g.num_rows for g in groups] == [4, 2] and all(pa.types.is_dictionary(g["country_iso"].type) for g in groups)
    assert [v for g in groups for v in g["country_iso"].to_pylist()] == table["country_iso"].to_pylist()


@pytest.mark.parametrize("damage", [
    lambda t: t.drop_columns(["is_home"]), lambda t: t.append_column("x", pa.array([1, 2, 3])),
    lambda t: t.select(sorted(t.column_names)), lambda t: column(t, "candidate_rank", t["candidate_rank"].cast(pa.int64())), lambda t: t])
def test_reader_refuses_files_of_another_shape(run, damage):
    # the last case is the right table written by somebody who did not mark the required columns as required
    run.path(CANDIDATES).parent.mkdir(parents=True)
    pq.write_table(damage(candidates(3)), run.path(CANDIDATES))
    assert refusal(read_table, run, CANDIDATES).code == "E_TABLE_SCHEMA"


def test_open_ingress_tables_may_have_more_columns_but_no_nulls(tmp_path):
    id, path = "transaction_schema_merchant_ids", tmp_path / "m.parquet"
    table = pa.table({"extra": [1.5, 2.5], "home_country_iso": ["GB", "FR"], "channel": ["card_present"] * 2,
                      "mcc": pa.array([742, 5411], pa.int32()), "merchant_id": [5, 6]})
    pq.write_table(table, path)
    assert pa.concat_tables(read_parquet(path, id)).column_names == ["merchant_id", "mcc", "channel", "home_country_iso"]
    pq.write_table(table.set_column(1, "home_country_iso", pa.array(["GB", None])), path)
    assert refusal(list, read_parquet(path, id, code="E_INGRESS_SCHEMA")).code == "E_INGRESS_SCHEMA"
    pq.write_table(table.set_column(4, "merchant_id", pa.array([5.0, 6.0])), path)
    error = refusal(list, read_parquet(path, id, code="E_INGRESS_SCHEMA"))
    assert (error.code, error.detail["field"], error.detail["observed"]) == ("E_INGRESS_SCHEMA", "merchant_id", "double")


def test_missing_file(run):
    assert refusal(read_table, run, CANDIDATES).code == "E_TABLE_MISSING"


def test_damaged_files_are_refused_or_read_but_never_crash(run):
    write(run, CANDIDATES, candidates(40, 1))
    data, path, rng = run.path(CANDIDATES).read_bytes(), run.path(CANDIDATES), random.Random(11)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 1, 4])):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        cut = len(data) if rng.random() < 0.7 else rng.randrange(len(data))
        path.write_bytes(damaged[:cut])
        try:
            read_table(run, CANDIDATES)
        except Seg1aError as error:
            assert error.code in ("E_TABLE_UNREADABLE", "E_TABLE_SCHEMA") and "\n" not in error.message


def test_embedding_law(run):
    table = candidates(8)
    check_embedding(table, run, CANDIDATES)
    for name, value in (("parameter_hash", "00" * 32), ("produced_by_fingerprint", "00" * 32)):
        wrong = column(table, name, pa.array(table[name].to_pylist()[:-1] + [value]))
        assert refusal(check_embedding, wrong, run, CANDIDATES).code == "E_PARTITION_MISMATCH"


def test_json_documents(run):
    pretty = write_json(run, "s2_nb_catalogue", {"b": 1, "a": [1]}, style="pretty")
    assert run.path("s2_nb_catalogue").read_bytes() == b'{\n  "a": [\n    1\n  ],\n  "b": 1\n}\n'
    assert pretty.size_bytes == run.path("s2_nb_catalogue").stat().st_size
    assert refusal(write_json, run, "s2_nb_catalogue", {"a": 2}).code == "E_PARTITION_EXISTS"


def test_output_lists(run):
    records = [OutputRecord("parameter_scoped/b", "ab" * 32, 3, 1), OutputRecord("logs/rng/a", "cd" * 32, 4, 2)]
    place = publish_outputs(run, 2, records)
    assert read_outputs(run, 2) == sorted(records, key=lambda r: r.path) and place.read_bytes().endswith(b"]\n")
    publish_outputs(run, 2, records[:1])
    assert read_outputs(run, 2) == records[:1]
    for damage in (b"", b"{}", b'[{"path":"../x","rows":1,"sha256":"' + b"ab" * 32 + b'","size_bytes":1}]', b"[1]"):
        place.write_bytes(damage)
        assert refusal(read_outputs, run, 2).code == "E_BUNDLE_INCOMPLETE"


def test_abort_log_grows_state_by_state_and_forgets_nothing(run):
    s2 = [MerchantAbort(9, "S2", "1A.nb_sampler", "ERR_S2_NUMERIC_INVALID", {"attempt": 0}), MerchantAbort(2**62, "S2", "m", "R")]
    s4 = [MerchantAbort(3, "S4", "1A.ztp_sampler", "NUMERIC_INVALID")]
    assert write_aborts(run, "S2", []) is None and not run.path("merchant_abort_log").exists()
    only = write_aborts(run, "S2", reversed(s2))
    both = write_aborts(run, "S4", s4)
    assert (only.rows, both.rows) == (2, 3) and read_aborts(run) == [s4[0], *s2]
    assert write_aborts(run, "S4", s4) == both
    assert write_aborts(run, "S4", []) == only
    assert write_aborts(run, "S2", []) is None and not run.path("merchant_abort_log").exists()
