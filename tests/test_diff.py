"""`seg1a diff`: what was changed is named, and so are the first state that moves and the merchants; equal runs, broken roots, pieces that do not meet."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg1a.core.encoding import canonical_line, read_yaml
from seg1a.core.errors import Seg1aError
from seg1a.core.event_rows import part_path
from seg1a.core.run import Options
from seg1a.inputs.pack import overlay_pack
from seg1a.operations.diff import first_byte, open_root, tree_changes
from seg1a.operations.diff_merchants import match_rows
from seg1a.operations.diff_report import diff, diff_lines
from seg1a.operations.pipeline import RunRequest, run_pipeline

START = 1_700_000_000_000_000_000
LANES = Options(s3_priors=True, s3_integerisation=True, notebooks=False)


def run_of(pack: Path, folder: Path, seed: int = 3, options: Options = LANES) -> Path:
    summary = run_pipeline(RunRequest(pack, folder, seed, "ab" * 20, START, options))
    assert summary["gate"]["status"] == "PASS", summary["run"]["failure"]
    return Path(summary["output_dir"])


@pytest.fixture(scope="module")
def base(small_pack, tmp_path_factory) -> Path:
    return run_of(small_pack, tmp_path_factory.mktemp("base"))


def file_of(pack: Path, name: str) -> Path:
    return next(pack.rglob(name))


def varied(pack: Path, folder: Path, name: str, data: bytes) -> Path:
    """The root of a run in which one file was changed."""
    return run_of(overlay_pack(pack, {name: data}, folder / "pack"), folder)


def edited(pack: Path, name: str, *keys, value) -> bytes:
    """A YAML file with one value changed, as JSON (which is YAML)."""
    document = read_yaml(file_of(pack, name).read_bytes(), name)
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return canonical_line(document)


def table_with(pack: Path, name: str, column: str, change) -> bytes:
    """A Parquet input with one column changed row by row."""
    table = pq.read_table(file_of(pack, name))
    rows = table.to_pylist()
    index, field = table.schema.get_field_index(column), table.schema.field(column)
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(index, field, pa.array([change(row) for row in rows], field.type)), sink)
    return sink.getvalue().to_pybytes()


# ---- one change ---------------------------------------------------------------------------------------------------------


def test_a_coefficient_of_the_hurdle(base, small_pack, tmp_path):
    text = file_of(small_pack, "hurdle_coefficients.yaml").read_bytes()
    told = diff(base, varied(small_pack, tmp_path, "hurdle_coefficients.yaml", text.replace(b"-1.35", b"-1.25", 1)))
    assert str(told.lineage.changes[0]) == "hurdle_coefficients.yaml … beta[0] (intercept): -1.35 -> -1.25"
    assert told.verdict == "DIFFERENT hurdle_coefficients.yaml; first moved: S1 pi; 400 of 400 merchants changed"
    pi = told.merchants.first_field
    assert pi.rows == pi.merchants == 400 and 0.0 < pi.mean <= abs(pi.largest) < 0.1
    assert told.merchants.first_moved == {"S0": 0, "S1": 400, "S2": 0, "S3": 0, "S4": 0} and told.passed == (True, True)
    assert {change["before"] for change in next(iter(told.merchants.listed.values())) if change["field"] == "pi"} != {None}


def test_a_coefficient_of_the_dispersion_moves_draws_first(base, small_pack, tmp_path):
    """Another parameter hash keys other draws; pi stands still, and mu does."""
    data = edited(small_pack, "nb_dispersion_coefficients.yaml", "beta_phi", -1, value=0.5)
    told = diff(base, varied(small_pack, tmp_path, "nb_dispersion_coefficients.yaml", data))
    assert [str(change).split(": ")[0] for change in told.lineage.changes if change.primary] == ["nb_dispersion_coefficients.yaml … beta_phi[935] (ln_gdp_pc)"]
    assert told.verdict.startswith("DIFFERENT nb_dispersion_coefficients.yaml; first moved: S1 u; 400 of 400")
    moved = {(count.source, count.field) for count in told.merchants.fields}
    assert ("hurdle_bernoulli", "pi") not in moved and ("nb_final", "mu") not in moved and ("nb_final", "dispersion_k") in moved


def test_a_limit_of_validation_moves_nobody(base, small_pack, tmp_path):
    told = diff(base, varied(small_pack, tmp_path, "validation_policy.yaml", edited(small_pack, "validation_policy.yaml", "s1", "z_warn", value=4.5)))
    assert told.verdict == "DIFFERENT validation_policy.yaml; nothing moved; 0 of 400 merchants changed"
    assert [str(change) for change in told.lineage.changes if change.primary] == ["validation_policy.yaml … s1.z_warn: 4.0 -> 4.5"]


def test_one_gdp_figure_moves_its_country_alone(base, small_pack, tmp_path):
    """GDP enters the dispersion of multi-site merchants; the tables that it is in are not keyed by it, so everybody else stands still."""
    design = pq.read_table(open_root(base).path("hurdle_design_matrix")).to_pylist()
    snapshot = {row["merchant_id"]: row["home_country_iso"] for row in pq.read_table(file_of(small_pack, "transaction_schema_merchant_ids.parquet")).to_pylist()}
    home = snapshot[design[0]["merchant_id"]]
    data = table_with(small_pack, "gdp.parquet", "gdp_pc_usd_2015", lambda row: row["gdp_pc_usd_2015"] + (1.0 if row["country_iso"] == home else 0.0))
    told = diff(base, varied(small_pack, tmp_path, "gdp.parquet", data))
    theirs = sum(country == home for country in snapshot.values())
    assert told.verdict == f"DIFFERENT gdp.parquet; first moved: S0 gdp_pc_usd_2015; {theirs} of 400 merchants changed"
    assert told.lineage.changes[0].place.startswith(f"country_iso={home}, observation_year=") and told.merchants.first_field.largest == pytest.approx(1.0)
    assert {count.source for count in told.merchants.fields if count.state == "S1"} == set()


def test_one_merchant_less_and_one_of_another_kind(base, small_pack, tmp_path):
    """A draw is a function of seed, parameter hash and merchant: what happens to one merchant is nobody else's business (R1)."""
    table = pq.read_table(file_of(small_pack, "transaction_schema_merchant_ids.parquet"))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables([table.slice(0, 7), table.slice(8)]), sink)
    gone = table["merchant_id"][7].as_py()
    told = diff(base, varied(small_pack, tmp_path / "less", "transaction_schema_merchant_ids.parquet", sink.getvalue().to_pybytes()))
    assert told.verdict == "DIFFERENT transaction_schema_merchant_ids.parquet; first moved: S0 row; 1 of 400 merchants changed"
    assert list(told.merchants.listed) == [gone] and str(told.lineage.changes[0]) == f"transaction_schema_merchant_ids.parquet … merchant_id={gone}: a row -> nothing"
    other = table["merchant_id"][9].as_py()
    data = table_with(small_pack, "transaction_schema_merchant_ids.parquet", "channel",
                      lambda row: {"card_present": "card_not_present", "card_not_present": "card_present"}[row["channel"]] if row["merchant_id"] == other else row["channel"])
    told = diff(base, varied(small_pack, tmp_path / "other", "transaction_schema_merchant_ids.parquet", data))
    assert told.verdict == "DIFFERENT transaction_schema_merchant_ids.parquet; first moved: S0 channel; 1 of 400 merchants changed" and list(told.merchants.listed) == [other]
    fields = {change["field"] for change in told.merchants.listed[other]}
    assert {"channel", "pi"} <= fields and "u" not in fields


# ---- equal runs, seeds, options -----------------------------------------------------------------------------------------


def test_equal_runs(base, small_pack, tmp_path, seg1a):
    again = run_of(small_pack, tmp_path)
    assert again != base and diff(base, again).equal and list(diff_lines(diff(base, base)))[-1] == "EQUAL 400 merchants"
    done = seg1a("diff", base, again, "--quiet")
    assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (0, "EQUAL 400 merchants", "")


def test_another_seed_and_another_lane(base, small_pack, tmp_path, seg1a):
    other = run_of(small_pack, tmp_path, seed=5, options=Options(s3_priors=True, notebooks=False))
    done = seg1a("diff", base, other, "--json", "--limit", "3")
    document, last = done.stdout.splitlines()
    document = json.loads(document)
    assert done.returncode == 1 and last == document["verdict"] == "DIFFERENT seed, option s3_integerisation; first moved: S1 u; 400 of 400 merchants changed"
    assert document["tables_of_one_run"] == {"s3_integerised_counts": "before"} and len(document["listed"]) == 3
    assert [count["field"] for count in document["fields"][:1]] == ["u"] and {count["state"] for count in document["fields"]} == {"S1", "S2", "S3", "S4"}
    one = str(document["listed"][2]["merchant_id"])
    done = seg1a("diff", base, other, "--json", "--merchant", one)
    assert [str(entry["merchant_id"]) for entry in json.loads(done.stdout.splitlines()[0])["listed"]] == [one]


# ---- forged and broken runs ---------------------------------------------------------------------------------------------


@pytest.fixture
def copy(base, tmp_path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "copy"))


def test_one_forged_line(base, copy):
    path = part_path(open_root(copy), "nb_final", 0)
    lines = path.read_bytes().splitlines(keepends=True)
    row = json.loads(lines[4])
    lines[4] = canonical_line(row | {"n_outlets": row["n_outlets"] + 5})
    path.write_bytes(b"".join(lines))
    told = diff(base, copy)
    assert told.verdict == "DIFFERENT same inputs; first moved: S2 n_outlets; 1 of 400 merchants changed" and told.lineage.changes == ()
    assert (told.merchants.first_field.largest, told.merchants.first_field.where) == (5.0, row["merchant_id"])
    assert told.merchants.listed[row["merchant_id"]] == [{"state": "S2", "source": "nb_final", "field": "n_outlets", "keys": {}, "before": row["n_outlets"], "after": row["n_outlets"] + 5}]


def test_a_country_that_left_and_one_whose_rank_moved(base, copy):
    run = open_root(copy)
    table = pq.read_table(run.path("s3_candidate_set"))
    rows = table.to_pylist()
    merchant = next(row["merchant_id"] for row in rows if row["candidate_rank"] == 2)
    mine = [i for i, row in enumerate(rows) if row["merchant_id"] == merchant]
    changed = [row | {"candidate_rank": 1} if i == mine[2] else row for i, row in enumerate(rows) if i != mine[1]]
    pq.write_table(pa.Table.from_pylist(changed, table.schema), run.path("s3_candidate_set"))
    told = diff(base, copy).merchants
    assert [(count.field, count.rows, count.only_before, count.largest) for count in told.fields] == [("row", 1, 1, None), ("candidate_rank", 1, 0, -1.0)]
    assert [(change["keys"]["country_iso"], change["before"], change["after"]) for change in told.listed[merchant]] == [(rows[mine[1]]["country_iso"], "a row", None), (rows[mine[2]]["country_iso"], 2, 1)]


def test_rows_out_of_order_and_rows_twice(base, copy, seg1a):
    run = open_root(copy)
    path = run.path("s3_eligibility")
    table = pq.read_table(path)
    for order in ([1, 0, *range(2, len(table))], [0, 0, *range(1, len(table))]):
        pq.write_table(table.take(order), path)
        with pytest.raises(Seg1aError) as caught:
            diff(base, copy)
        assert caught.value.code == "E_DIFF_ORDER" and "s3_eligibility" in caught.value.message
    done = seg1a("diff", base, copy)
    assert done.returncode == 1 and done.stdout.startswith("FAIL E_DIFF_ORDER ") and "Traceback" not in done.stderr
    pq.write_table(table, path)
    counts = pq.read_table(run.path("s3_integerised_counts"))
    pq.write_table(pa.concat_tables([counts.slice(0, 1), counts]), run.path("s3_integerised_counts"))
    with pytest.raises(Seg1aError, match="two rows with one key"):
        diff(base, copy)


@pytest.mark.parametrize("path, code, status", [("run_root.json", "E_ROOT_NOT_FOUND", 2), ("validation/parameter_hash=*/execution_stamp.json", "E_BUNDLE_INCOMPLETE", 1),
                                                ("validation/parameter_hash=*/fingerprint_artifacts.jsonl", "E_BUNDLE_INCOMPLETE", 1)])
def test_roots_that_lack_something(base, copy, seg1a, path, code, status):
    next(copy.glob(path)).unlink()
    done = seg1a("diff", base, copy)
    assert done.returncode == status and done.stdout.startswith(f"FAIL {code} ") and "Traceback" not in done.stderr


def test_damaged_tables_and_logs(base, copy):
    run = open_root(copy)
    for path, code in ((part_path(run, "hurdle_bernoulli", 0), "E_RNG_ENVELOPE"), (run.path("s3_candidate_set"), "E_TABLE_UNREADABLE")):
        kept = path.read_bytes()
        path.write_bytes(kept[:200])
        with pytest.raises(Seg1aError) as caught:
            diff(base, copy)
        assert caught.value.code == code
        path.write_bytes(kept)


def test_a_run_without_its_pack_and_a_foreign_pack(base, small_pack, tmp_path, seg1a):
    text = file_of(small_pack, "policy.s4.hyperparams.yaml").read_bytes()
    other = varied(small_pack, tmp_path, "policy.s4.hyperparams.yaml", text.replace(b"theta0: -1.0", b"theta0: -0.9"))
    (tmp_path / "pack").rename(tmp_path / "moved")
    told = diff(base, other)
    assert told.lineage.changes[0].place == "" and "not at hand" in told.lineage.notes[0] and told.merchants.first_field.field == "u"
    assert str(diff(base, other, (None, tmp_path / "moved")).lineage.changes[0]) == "policy.s4.hyperparams.yaml … ztp_link.theta0: -1.0 -> -0.9"
    done = seg1a("diff", base, other, "--pack-b", small_pack)
    assert done.returncode == 2 and done.stdout.startswith("FAIL E_PACK_FOREIGN ")


def test_text_of_a_file_cannot_steer_a_terminal(base, small_pack, tmp_path):
    data = edited(small_pack, "policy.s4.hyperparams.yaml", "notes", value="red\x1b[31m")
    told = diff(base, varied(small_pack, tmp_path, "policy.s4.hyperparams.yaml", data))
    assert told.lineage.changes[0].after == "red\x1b[31m" and not any("\x1b" in line for line in diff_lines(told))


# ---- three shards -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shards_that_do_not_meet(in_process_run, sharded_pack, tmp_path, seg1a):
    """Three shards with themselves, and with the same merchants less the first thousand: chunks of the two sides never end at one merchant."""
    same = diff(in_process_run, in_process_run)
    assert same.verdict == "EQUAL 70,000 merchants"
    table = pq.read_table(file_of(sharded_pack, "transaction_schema_merchant_ids.parquet"))
    table = table.take(np.argsort(table["merchant_id"].to_numpy())).slice(1000)
    pq.write_table(table, tmp_path / "less.parquet")
    flags = ("--seed", "7", "--start-time-ns", START, "--git-commit", "ab" * 20, "--s3-priors", "--s3-integerisation", "--s3-sequencing", *(f"--no-validate-s{n}" for n in range(5)))
    done = seg1a("run", "--pack", sharded_pack, "--merchant-table", tmp_path / "less.parquet", "--output-dir", tmp_path / "runs", "--no-notebooks", *flags)
    less = Path(done.stdout.split()[-1])
    told = diff(in_process_run, less)
    assert told.merchants.changed == 1000 and told.merchants.merchants == 70_000 and told.merchants.first_field.only_before == 1000
    assert {count.field for count in told.merchants.fields} == {"row"} and told.passed == (True, False)


# ---- pieces -------------------------------------------------------------------------------------------------------------

KEYS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), unique=True, max_size=20)


@given(KEYS, KEYS)
def test_matching_is_what_sets_say(one, other):
    one, other = sorted(one), sorted(other)
    here, there, gone, new = match_rows(*([np.array([key[i] for key in side], np.int64) for i in range(2)] for side in (one, other)))
    assert [one[i] for i in here] == [other[i] for i in there] and {one[i] for i in here} == set(one) & set(other)
    assert {one[i] for i in gone} == set(one) - set(other) and {other[i] for i in new} == set(other) - set(one)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_first_byte_is_the_first(one, other):
    offset, line = first_byte(one, other)
    assert one[:offset] == other[:offset] and line == one[:offset].count(b"\n") + 1
    assert offset == min(len(one), len(other)) or one[offset] != other[offset]


def test_trees_that_differ_are_put_right_by_their_changes():
    draw = random.Random(4)

    def tree(depth: int) -> object:
        kind = draw.randrange(3 if depth else 1)
        return draw.choice([1, 1.0, "a", True]) if kind == 0 else [tree(depth - 1) for _ in range(3)] if kind == 1 else {key: tree(depth - 1) for key in "abc"}

    for _ in range(300):
        one, other = tree(3), tree(3)
        changes = list(tree_changes(one, other))
        assert bool(changes) == (canonical_line({"x": one}) != canonical_line({"x": other})) and not list(tree_changes(one, one))


def test_roots_are_shown_as_given(base, seg1a):
    done = seg1a("diff", base.name, f"../{base.parent.name}/{base.name}", cwd=base.parent)
    assert done.stdout.splitlines()[:2] == [f"before {base.name}", f"after  ../{base.parent.name}/{base.name}"] and done.returncode == 0
