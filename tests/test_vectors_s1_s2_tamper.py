"""Every edit of the vectors to a finished S1 and S2 is found, and under the name that the vectors give it."""
import json
import shutil

import pytest
from s1_s2_support import VECTORS, end_to_end_run

from seg1a.core.encoding import canonical_line
from seg1a.core.events import part_path
from seg1a.core.run import open_run
from seg1a.core.tables import read_aborts, write_aborts
from seg1a.states.s1_hurdle import run_s1
from seg1a.states.s1_validate import validate_s1
from seg1a.states.s2_nb_outlets import run_s2
from seg1a.states.s2_validate import validate_s2

STREAMS = {"hurdle": "hurdle_bernoulli", "gamma": "gamma_component", "poisson": "poisson_component_nb", "nb_final": "nb_final"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "The end-to-end case behind S2, never edited itself."
    folder = tmp_path_factory.mktemp("finished")
    run = end_to_end_run(folder)
    run_s1(run), run_s2(run)
    return folder


def edited(rows, case):
    "The rows (parsed JSON) after the edit of a case."
    at, row = case["row"], dict(rows[case["row"]])
    if case["op"] == "set":
        new = [row | case["arg"]]
    elif case["op"] == "drop":
        new = [{name: value for name, value in row.items() if name not in case["arg"]}]
    else:
        new = {"delete": [], "duplicate": [row, row]}[case["op"]]
    return rows[:at] + new + rows[at + 1:]


def tamper(run, case):
    "Write the edit of a case into the run."
    if case["stream"] == "merchant_aborts":
        write_aborts(run, "S2", edited_aborts(read_aborts(run, "S2"), case))
        return
    path = part_path(run, STREAMS[case["stream"]], 0) if case["stream"] in STREAMS else run.path("rng_trace_log")
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    path.write_bytes(b"".join(map(canonical_line, edited(rows, case))))


def edited_aborts(aborts, case):
    assert case["op"] == "delete", "the vectors only take an abort away"
    return aborts[:case["row"]] + aborts[case["row"] + 1:]


def identity(case):
    return f"{case['state']}-{case['stream']}-{case['op']}-{','.join(case['arg'] or ())}-{case['must_report']}"


@pytest.mark.parametrize("case", VECTORS["tamper"], ids=identity)
def test_vectors_tamper(case, finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    run = open_run(tmp_path / "run", tmp_path / "pack")
    tamper(run, case)
    report = {"S1": validate_s1, "S2": validate_s2}[case["state"]](run)
    assert not report.passed
    assert case["must_report"] in {finding.code for finding in report.findings}


def test_vectors_untouched_case_passes(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    run = open_run(tmp_path / "run", tmp_path / "pack")
    assert validate_s1(run).passed and validate_s2(run).passed
