"""What a code means, for a person who has only the code; the page of codes; the table against the sources."""

import re
from pathlib import Path

import pytest

from seg1a.core import errors
from seg1a.core.codes import code_modules, codes_in_source, codes_markdown, describe_code, is_reserved, nearest_codes
from seg1a.core.errors import FAILURE_CLASSES, UsageError, code_table

PACKAGE = Path(errors.__file__).parents[1]


@pytest.mark.parametrize("code", code_table())
def test_a_description_tells_all_that_the_table_and_the_sources_know(code):
    record, text = code_table()[code], describe_code(code)
    assert text.startswith(f"{code}: class {record.failure_class} ({FAILURE_CLASSES[record.failure_class]}), failure {record.failure_code}\n")
    for fact in (record.meaning, record.remedy, record.scope, f"exit status: {record.exit_status}", record.source, *code_modules()[code]):
        assert fact in text


def test_a_module_that_is_named_holds_the_code_and_no_other_module_does():
    for path in PACKAGE.rglob("[!_]*.py"):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        assert {code for code, modules in code_modules().items() if module in modules} == codes_in_source(path.read_text("utf-8")), module


def test_every_code_stands_in_the_sources_unless_it_is_reserved():
    assert {code for code, modules in code_modules().items() if not modules} == {code for code, record in code_table().items() if is_reserved(record)}


def test_composed_codes_take_their_members_from_the_same_module():
    assert codes_in_source('digest(path, "PARAM")\nraise Seg1aError(f"E_{kind}_RACE", "x")') == {"E_PARAM_RACE"}
    assert codes_in_source('raise Seg1aError(f"E_{kind}_RACE", "x")') == set()


@pytest.mark.parametrize("typed, nearest", [("E_GDP_MISING", "E_GDP_MISSING"), ("e_pack_digest", "E_PACK_DIGEST"), ("corridor_breach", "corridor_breach:p99"), ("E-YAML-PARSE", "E_YAML_PARSE")])
def test_an_unknown_code_is_refused_with_the_nearest(typed, nearest):
    assert nearest in nearest_codes(typed)
    with pytest.raises(UsageError, match=f"E_EXPLAIN_CODE.*{nearest}") as refusal:
        describe_code(typed)
    assert refusal.value.exit_status == 2 and nearest in refusal.value.detail["nearest"]


@pytest.mark.parametrize("typed", ["", " ", "\0", "é" * 100, "E_" * 500_000, "\ud800"])
def test_no_text_is_too_odd_to_be_refused(typed):
    with pytest.raises(UsageError, match="E_EXPLAIN_CODE") as refusal:
        describe_code(typed)
    assert len(str(refusal.value)) < 400
    str(refusal.value).encode("utf-8")


def test_the_page_has_every_code_once_in_the_table_of_its_class():
    sections = dict(zip(FAILURE_CLASSES, re.split(r"^## F\d+: .*$", codes_markdown(), flags=re.M)[1:], strict=True))
    for code, record in code_table().items():
        assert [failure_class for failure_class, text in sections.items() for line in text.splitlines() if line.startswith(f"| `{code}` |")] == [record.failure_class]
    for line in codes_markdown().splitlines():
        assert not line.startswith("| `") or len(re.split(r"(?<!\\)\|", line)) == 8, line
