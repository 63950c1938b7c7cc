"""Reports of validators."""
import json

import numpy as np
import pytest

from seg1a.core.encoding import canonical_line
from seg1a.core.findings import MAX_FINDINGS, Finding, Report


def test_json_of_awkward_values():
    report = Report("S4", metrics={"rate": np.float64("nan"), "n": np.int64(3)})
    report.add("c", "C", np.int64(2**40), [Finding("E_RNG_COUNTER", "c", "x", merchant_id=np.int64(2**62), expected=np.uint64(2**64 - 1), observed=float("inf"))])
    back = json.loads(canonical_line(report.as_json()))
    assert back["findings"][0]["expected"] == 2**64 - 1 and back["findings"][0]["observed"] == "inf" and back["metrics"] == {"n": 3, "rate": "nan"}
    assert back["checks"] == [{"id": "c", "title": "C", "status": "fail", "checked": 2**40, "failed": 1}] and back["passed"] is False


@pytest.mark.parametrize("listed, failed, expected", [(0, None, 0), (0, 0, 0), (3, None, 3), (3, 10, 10), (3, 1, 3), (MAX_FINDINGS + 50, None, MAX_FINDINGS + 50), (0, 4, 4)])
def test_counts(listed, failed, expected):
    report = Report("S1")
    result = report.add("c", "C", 1000, [Finding("E_RNG_BUDGET", "c", str(i)) for i in range(listed)], failed)
    assert result.failed == expected and report.passed == (expected == 0) and len(report.findings) == min(listed, MAX_FINDINGS)
    assert (report.error() is None) == report.passed


def test_each_check_has_its_own_limit():
    report = Report("S1")
    for check in ("a", "b"):
        report.add(check, check, 1000, (Finding("E_RNG_BUDGET", check, "x") for _ in range(MAX_FINDINGS * 2)))
    assert [f.check for f in report.findings] == ["a"] * MAX_FINDINGS + ["b"] * MAX_FINDINGS
    assert report.error().detail["check"] == "a"


def test_markdown_cells_cannot_be_broken():
    report = Report("S1", warnings=["a|b\nc"])
    report.add("x|y", "one\ntwo", 1, [Finding("E_RNG_BUDGET", "x|y", "p|q\nr")])
    lines = report._repr_markdown_().splitlines()
    assert "| `x\\|y` | one two | fail | 1 | 1 |" in lines and "- `E_RNG_BUDGET` x\\|y: p\\|q r" in lines and "- warning: a\\|b c" in lines


def test_nothing_checked_is_no_pass():
    report = Report("S1")
    assert not report.passed and report.error().code == "E_VALIDATION_MISMATCH"
    report.skip("a", "A")
    assert not report.passed
    report.warn("b", "B", 1, "look")
    assert report.passed
