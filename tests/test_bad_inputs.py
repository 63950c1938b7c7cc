"""The catalogue of bad inputs, each typed as a user types it: the right code, the place in the message, nothing left, nothing spent.

The first case of every code and a spread of the legal oddities run always, all others in `make soak`. Each bears its defect as its name.
"""

import os
from collections import Counter

import pytest
from bad_inputs import CASES
from bad_inputs.cases import PASS
from bad_inputs.judge import make_world, problems, run_case
from prepared import run_forked

from seg1a.core.errors import code_table

LEGAL_SHARE = 4  # of the legal ones, which cost a whole run, one in so many


def _chosen() -> set[str]:
    """The defects that are tried always."""
    first = {}
    for case in CASES:
        first.setdefault((case.code, case.defect.partition(":")[0]) if case.code.startswith("E_PACK") else case.code, case.defect)
    return {*first.values(), *[case.defect for case in CASES if case.code == PASS][::LEGAL_SHARE]}


ALWAYS = _chosen()
PARAMETERS = [pytest.param(case, id=case.defect, marks=() if case.defect in ALWAYS else pytest.mark.slow) for case in CASES]


@pytest.fixture(scope="module")
def world(small_pack, tmp_path_factory):
    return make_world(small_pack, tmp_path_factory.mktemp("bad-inputs"))


@pytest.fixture(scope="module")
def compiled(world, tmp_path_factory):
    """The kernels are in the cache, so that no case is charged for compiling them."""
    flags = ("--s3-priors", "--s3-integerisation", "--no-notebooks", "--quiet")
    done = run_forked(["run", "--pack", str(world), "--output-dir", str(tmp_path_factory.mktemp("compiled")), *flags], None, dict(os.environ))
    assert done.stdout.startswith("PASS "), done.stdout + done.stderr


@pytest.mark.parametrize("case", PARAMETERS)
def test_bad_input(case, world, compiled, tmp_path):
    outcome = run_case(case, world, tmp_path, run_forked)
    assert not problems(outcome), (outcome.verdict, problems(outcome), outcome.done.stderr[-2000:])


def test_the_catalogue_is_what_it_says():
    counts = Counter(case.defect.partition(":")[0] for case in CASES)
    print(f"{len(CASES)} cases, {sum(case.code == PASS for case in CASES)} of them legal, {len({case.code for case in CASES})} codes, {len(ALWAYS)} tried always: {dict(counts)}")
    assert len(CASES) >= 300 and len({case.defect for case in CASES}) == len(CASES)
    for case in CASES:
        assert case.code == PASS or (case.code in code_table() and case.names and case.exit == (2 if case.defect.startswith(("flags: sites without",)) else code_table()[case.code].exit_status)), case.defect
