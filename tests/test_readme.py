"""What the README shows works: its Python runs, its commands parse."""

import re
import shlex

import pytest

from seg1a.operations.cli import build_parser
from seg1a.operations.promote import promote


def blocks(checkout, language: str) -> list[str]:
    """The code blocks of the README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (checkout / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)


def test_its_python_reads_a_promoted_run(checkout, places, passed_run):
    pytest.importorskip("polars"), pytest.importorskip("duckdb")
    names = {"place": promote(passed_run, places.fresh()).uri}
    python = blocks(checkout, "python")
    assert len(python) == 2
    for block in python:
        exec(block, names)
    assert names["candidates"].num_rows == len(names["ranks"]) > 0
    assert names["outlets"]["n_outlets"].tolist() == names["events"]["n_outlets"].to_list()
    assert names["largest"].fetchall()[0][0] == max(names["outlets"]["n_outlets"])
    assert set(names["events"]["seed"].to_list()) == {2**63 + 7}
    names["run"].close()


def test_its_commands_parse(checkout):
    lines = [line.partition("#")[0] for block in blocks(checkout, "sh") for line in block.splitlines() if line.startswith("seg1a ")]
    assert len(lines) > 12
    for line in lines:
        words = shlex.split(line)[1:]
        if "--help" not in words:
            build_parser(words).parse_args(words)


def test_the_lock_is_the_one_whose_digest_is_sealed(checkout):
    import hashlib

    from seg1a.core.lineage import lock_digest

    assert lock_digest() == hashlib.sha256((checkout / "requirements" / "lock.txt").read_bytes()).hexdigest()
