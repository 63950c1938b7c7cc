"""What S0 does in several threads, shard by shard, is what one thread does with the whole: same universe, same refusals, same findings."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from s0_support import run_of, small_world

from seg1a.core import shards
from seg1a.core.errors import Seg1aError
from seg1a.core.run import SealedInputs
from seg1a.core.tables import map_row_groups, read_parquet
from seg1a.states.s0_ingress import MERCHANTS, check_merchants, read_universe
from seg1a.states.s0_recompute import expected_table, find_faults, recompute, sample_rows, scan_table, second_opinions, table_names

ISOS = ["DE", "GB", "US"]
SCHEMA = pa.schema([("merchant_id", pa.int64()), ("mcc", pa.int32()), ("channel", pa.string()), ("home_country_iso", pa.string())])
WIDTH = 64  # rows of a shard in these tests


def outcome(act):
    """What an action returns, or how it refuses."""
    try:
        universe = act()
    except Seg1aError as error:
        return error.code, error.message, error.detail
    return [getattr(universe, name).tolist() for name in ("merchant_id", "mcc", "channel_index", "home_index")]


ids = st.one_of(st.integers(1, 40), st.just(2**63 - 1), st.integers(-1, 0))
merchants = st.lists(
    st.tuples(ids, st.sampled_from([0, 742, 9999, 9999, 5411, -1, 10_000]), st.sampled_from(["card_present"] * 4 + ["card_not_present"] * 3 + ["CP"]), st.sampled_from(ISOS * 3 + ["QQ"])),
    min_size=1, max_size=14)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(merchants, st.booleans(), st.integers(1, 5), st.sampled_from([1, 3]))
def test_universe_of_row_groups_is_that_of_the_whole_table(tmp_path_factory, people, ascending, size, workers):
    people = sorted({person[0]: person for person in people}.values()) if ascending else people
    table = pa.table([pa.array(column, kind) for column, kind in zip(zip(*people), SCHEMA.types)], schema=SCHEMA)
    path = tmp_path_factory.getbasetemp() / "groups.parquet"
    pq.write_table(table, path, row_group_size=size)
    assert outcome(lambda: read_universe(path, ISOS, workers)) == outcome(lambda: check_merchants(table, ISOS))


def test_faultless_rows_ascend_and_keep_their_types(tmp_path):
    table = pa.table([[3, 9, 2**53 + 1], pa.array([742, 0, 9999], pa.int32()), ["card_present"] * 3, ["US", "DE", "US"]], schema=SCHEMA)
    pq.write_table(table, tmp_path / "groups.parquet", row_group_size=2)
    universe, whole = read_universe(tmp_path / "groups.parquet", ISOS, 2), check_merchants(table, ISOS)
    for name in ("merchant_id", "mcc", "channel_index", "home_index"):
        assert getattr(universe, name).dtype == getattr(whole, name).dtype and getattr(universe, name).tolist() == getattr(whole, name).tolist()


@pytest.mark.parametrize("workers", [1, 3])
def test_row_groups_are_read_in_order_and_refused_at_their_place(tmp_path, workers):
    path = tmp_path / "merchants.parquet"
    table = pa.table([list(range(1, 11)), pa.array([742] * 10, pa.int32()), ["card_present"] * 10, ["GB"] * 7 + [None] + ["GB"] * 2], schema=SCHEMA)
    pq.write_table(table, path, row_group_size=3)
    seen = []
    with pytest.raises(Seg1aError) as threads:
        seen.extend(map_row_groups(lambda group, rows: (group, rows["merchant_id"].to_pylist()), path, MERCHANTS, workers))
    with pytest.raises(Seg1aError) as serial:
        list(read_parquet(path, MERCHANTS))
    assert seen == [(0, [1, 2, 3]), (1, [4, 5, 6])] and (threads.value.code, threads.value.message) == (serial.value.code, serial.value.message)
    names = map_row_groups(lambda _, rows: rows.column_names, path, MERCHANTS, workers, ["mcc", "merchant_id"], dictionary=True)
    assert list(names) == [["mcc", "merchant_id"]] * 4


# ---- the tables of a run with several shards --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(small_pack, tmp_path_factory):
    return small_world(small_pack, tmp_path_factory.mktemp("shards"))


@pytest.fixture
def many(world, tmp_path, monkeypatch):
    """A run of 400 merchants in seven shards, and what its tables must hold."""
    monkeypatch.setattr(shards, "SHARD", WIDTH)
    run = run_of(tmp_path, world)
    return run, recompute(SealedInputs(run.state_bundle(0), world))


def rewritten(run, name: str, groups: list[pa.Table]) -> None:
    """Put other row groups into a table."""
    schema = pq.read_schema(run.path(name))
    with pq.ParquetWriter(run.path(name), schema, compression="zstd", store_schema=False) as writer:
        for group in groups:
            writer.write_table(group.cast(schema), row_group_size=max(len(group), 1))


def facts(scan) -> tuple:
    return scan.rows, scan.findings, scan.wrong, scan.tallies


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", table_names(True))
def test_clean_table_is_seen_to_be_clean_without_reading_it_twice(many, monkeypatch, name, workers):
    run, found = many
    slow = find_faults(run, expected_table(found, name))
    assert slow.rows == 400 and not slow.wrong and pq.ParquetFile(run.path(name)).num_row_groups == 7
    monkeypatch.setattr("seg1a.states.s0_recompute.find_faults", None)
    assert facts(scan_table(replace(run, workers=workers), found, name)) == facts(slow)


def swapped(groups):
    return [groups[1], groups[0], *groups[2:]]


def moved_border(groups):
    return [groups[0].slice(0, WIDTH - 1), pa.concat_tables([groups[0].slice(WIDTH - 1), groups[1]]), *groups[2:]]


def other_group(change):
    return lambda groups: [*groups[:4], change(groups[4]), *groups[5:]]


DAMAGES = {
    "groups swapped": swapped, "border moved": moved_border, "last group lost": lambda groups: groups[:-1], "first group lost": lambda groups: groups[1:],
    "last group twice": lambda groups: [*groups, groups[-1]], "all in one group": lambda groups: [pa.concat_tables(groups)], "no group": lambda groups: [],
    "empty group": lambda groups: [*groups[:3], groups[0].slice(0, 0), *groups[3:]],
    "row twice": other_group(lambda group: pa.concat_tables([group, group.slice(WIDTH - 1)])), "row lost": other_group(lambda group: group.slice(1)),
    "rows swapped": other_group(lambda group: group.take([*range(10), 11, 10, *range(12, WIDTH)])),
    "other run": other_group(lambda group: group.set_column(0, group.schema.field(0), pa.array(["e" * 64] * WIDTH))),
}  # fmt: skip


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_table_has_the_findings_of_one_reading_of_the_whole(many, case, workers):
    run, found = many
    run, name = replace(run, workers=workers), "crossborder_eligibility_flags"
    file = pq.ParquetFile(run.path(name))
    rewritten(run, name, DAMAGES[case]([file.read_row_group(i) for i in range(7)]))
    scan = scan_table(run, found, name)
    assert scan.wrong and facts(scan) == facts(find_faults(run, expected_table(found, name)))


@pytest.mark.parametrize("name", table_names(True))
def test_any_wrong_cell_in_any_shard_is_found_at_its_row(many, name):
    run, found = many
    file = pq.ParquetFile(run.path(name))
    groups = [file.read_row_group(i) for i in range(7)]
    random = np.random.default_rng(11)
    for column in [*expected_table(found, name).numbers]:
        row = int(random.integers(400))
        group, place = groups[row // WIDTH], row % WIDTH
        values = group[column].to_numpy().copy()
        bits = values.view(f"u{values.dtype.itemsize}")
        bits[place] ^= bits.dtype.type(1)  # the least difference that there is
        wrong = group.set_column(group.column_names.index(column), group.schema.field(column), pa.array(values))
        rewritten(run, name, [*groups[: row // WIDTH], wrong, *groups[row // WIDTH + 1 :]])
        scan = scan_table(run, found, name)
        assert scan.wrong["V6"] == 1 and scan.findings["V6"][0].row == row and not scan.wrong["V5"], column


def test_second_opinions_are_asked_over_all_shards(many):
    run, found = many
    wrong = replace(found, designs=replace(found.designs, ln_gdp_pc=np.nextafter(found.designs.ln_gdp_pc, 0)))
    assert not list(second_opinions(found, range(400))) and len(list(second_opinions(wrong, sample_rows(400)))) == 2
