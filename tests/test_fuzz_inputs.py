"""Readers, loaders and the predicate parser against damage: no crash, no silence, and nothing accepted that their reference refuses.

A small campaign always; a large one in `make soak`, of SEG1A_FUZZ_EXECUTIONS (20 000) executions a target. `benchmarks/fuzz.py` runs the same and prints what it did.
"""

import os

import pytest
from fuzz_support import fuzzed
from fuzz_targets import SCOPE, examine_json, examine_predicate, examine_yaml, share, targets
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seg1a.core.encoding import canonical_json, read_json, read_yaml
from seg1a.core.errors import Seg1aError
from seg1a.states.s3_predicates import parse_predicate

TARGETS = {target.name: target for target in targets()}
SMALL, LARGE = 400, int(os.environ.get("SEG1A_FUZZ_EXECUTIONS", "20000"))


@pytest.mark.parametrize("name", TARGETS)
def test_a_small_campaign_finds_nothing(name):
    tally = fuzzed(TARGETS[name], [20251103], max(int(SMALL * share(name)), 1))
    print(tally)
    assert not tally.findings, tally.findings[:3]
    assert 0 < tally.accepted < tally.executions, "the damage is too wild or too tame"


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_large_campaign_finds_nothing(name):
    tally = fuzzed(TARGETS[name], [20251103, LARGE], max(int(LARGE * share(name)), 1))
    print(tally)
    assert not tally.findings, tally.findings[:3]


# ---------------------------------------------------------------- found by campaigns, or by thinking

@pytest.mark.parametrize("data", [b"%YAML 1.0\n---\na: 1\n", b"%YAML 2.0\n---\na: 1\n", b"%YAML 99999999999999999999.1\n---\na: 1\n", b"%TAG ! tag:x,2000:\n---\na: 1\n", b"a: !<x> 1\n", b"%\n", b"\x00", b"? ? ?\n", b"a: *\n", b"&\n"])
def test_yaml_that_once_was_or_might_be_trouble(data):
    assert not examine_yaml(data)


# ---------------------------------------------------------------- any value, any bytes

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=4), max_leaves=12)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), VALUES, max_size=4))
@settings(max_examples=150)
def test_what_is_written_is_read_by_both_readers(value):
    data = canonical_json(value).encode()
    assert repr(read_json(data, "x")) == repr(value) or read_json(data, "x") == value
    assert read_yaml(data, "x") == value


@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(max_examples=300)
@example(b"\xef\xbb\xbf{}")
@example(b"\xff\xfe{\x00}\x00")
def test_no_bytes_crash_a_reader(data):
    examine_json(data)
    examine_yaml(data)


@given(st.text(max_size=60) | st.lists(st.sampled_from(["n_outlets", "mcc", "in", "not", "and", "or", "(", ")", "{", "}", ",", "==", "<", "5411", "-1", '"DE"', "EU", "is_home", "true", '"X1"', "filter_tags"]), max_size=12).map(" ".join))
@settings(max_examples=500)
def test_no_text_crashes_the_parser_of_predicates(text):
    examine_predicate(text)


def test_a_refusal_of_a_predicate_is_short_however_long_the_text():
    with pytest.raises(Seg1aError, match="column 1:") as refusal:
        parse_predicate("a" * 1_000_000, SCOPE)
    assert len(refusal.value.message) < 1000
