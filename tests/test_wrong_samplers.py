"""Samplers with a fault: the replay finds each of them at once, the statistics alone find those that change a distribution, from some size on."""
import sys
from pathlib import Path

import numpy as np
import pytest
from s1_s2_support import VECTORS, lineage_of, universe
from s4_support import lineage_of as s4_lineage_of

from seg1a.core.run import Options
from seg1a.states.replay import miniature_run
from seg1a.states.s1_hurdle import run_s1
from seg1a.states.s1_validate import validate_s1
from seg1a.states.s2_nb_outlets import run_s2
from seg1a.states.s2_validate import validate_s2
from seg1a.states.s4_miniature import merchant_facts, miniature_s4
from seg1a.states.s4_validate import validate_s4
from seg1a.states.s4_ztp import run_s4

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from statistics_power import healthy, speaking  # noqa: E402
from wrong_samplers import FAULTS, installed  # noqa: E402

INPUT = VECTORS["end_to_end"]["input"]
UNPROVEN = Options(validate=(True, False, False, True, True))
UNPROVEN_S4 = Options(validate=(True, True, True, True, False))
REPLAY = {"S1": "hurdle_replay_mismatch", "S2": "replay_mismatch"}
PLACES = [(fault, state) for fault, (_, states) in FAULTS.items() for state in states]


def two_states(folder):
    "S1 and S2 over 2000 merchants, unproven."
    files = {"hurdle_coefficients.yaml": INPUT["hurdle_coefficients"], "nb_dispersion_coefficients.yaml": INPUT["nb_dispersion_coefficients"],
             "validation_policy.yaml": {"semver": "1.0.0", "version": "1", "s2": INPUT["policy"]}}
    run = miniature_run(folder, lineage_of(INPUT["run"]), universe(2_000, INPUT["hurdle_coefficients"]), files, UNPROVEN)
    run_s1(run), run_s2(run)
    return run


def fourth_state(folder):
    "S4 over 200 merchants of both regimes, unproven."
    facts = merchant_facts(np.arange(1, 201), n_outlets=np.tile([6, 40], 100))
    run = miniature_s4(folder, s4_lineage_of({"lineage": INPUT["run"]}), facts, options=UNPROVEN_S4)
    run_s4(run)
    return run


@pytest.mark.parametrize("fault, state", PLACES)
def test_the_replay_finds_it_at_once(tmp_path, fault, state):
    with installed(fault):
        run = fourth_state(tmp_path) if state == "S4" else two_states(tmp_path)
    report = {"S1": validate_s1, "S2": validate_s2, "S4": validate_s4}[state](run)
    codes = {finding.code for finding in report.findings}
    assert not report.passed and codes
    assert state not in REPLAY or REPLAY[state] in codes


def test_the_right_samplers_pass(tmp_path):
    run = two_states(tmp_path / "two")
    assert validate_s1(run).passed and validate_s2(run).passed and validate_s4(fourth_state(tmp_path / "four")).passed


@pytest.mark.parametrize("fault, state, size, statistic", [
    ("hurdle", "S1", 100_000, "S1 z_multi"), ("gamma", "S2", 30_000, "S2 mean_z"), ("ptrs", "S2", 100, "S2 mean_z"), ("ptrs", "S4", 1_000, "S4 k_sum.ptrs"),
    ("rate", "S4", 100_000, "S4 k_sum.ptrs"),
])
def test_statistics_alone_find_it_from_some_size_on(fault, state, size, statistic):
    assert speaking((state,), size, 1, fault)[statistic]
    assert not any(speaking((state,), size, 1).values())


def test_statistics_cannot_see_exchanged_lanes():
    # both words of a block are uniform: another stream, the same law; only the replay can object
    assert not any(speaking(("S1", "S2", "S4"), 10_000, 1, "lanes").values())


@pytest.mark.slow
def test_no_false_alarm_of_the_right_samplers():
    assert healthy([300, 3_000, 30_000], 20) == 0
