"""The code table and the exception family."""
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seg1a.core import errors
from seg1a.core.errors import FAILURE_CLASSES, SCOPES, NotPassed, Seg1aError, StagingError, UsageError, code_table

ENTRY = {"class": "F2", "failure_code": "x", "scope": "run", "exit": 1, "meaning": "m", "remedy": "r"}
PACKAGE = Path(errors.__file__).parents[1]


def test_every_record_is_complete():
    for code, record in code_table().items():
        assert record.code == code and re.fullmatch(r"[A-Za-z][A-Za-z0-9_.:-]*", code)
        assert record.failure_class in FAILURE_CLASSES and record.scope in SCOPES and record.exit_status in (1, 2)
        assert record.meaning.endswith(".") and record.remedy.endswith("."), code
        assert record.source.endswith(".yaml")


def test_exit_status_follows_the_scope():
    for record in code_table().values():
        if record.scope in ("stage", "usage"):
            assert record.exit_status == 2, record.code
        else:
            assert record.exit_status == 1, record.code


@pytest.mark.parametrize("change", [
    {"class": "F0"}, {"class": None}, {"scope": "all"}, {"exit": 0}, {"exit": "1"}, {"meaning": ""}, {"remedy": None}, {"more": 1}, {"failure_code": 7},
])
def test_malformed_entries_are_bugs(change):
    with pytest.raises(AssertionError, match="x.yaml"):
        errors._code_record("E_X", {**ENTRY, **change}, "x.yaml")


def test_one_code_in_two_files_is_a_bug(tmp_path, monkeypatch):
    codes = tmp_path / "core" / "contracts" / "codes"
    codes.mkdir(parents=True)
    text = "E_X: {class: F2, failure_code: x, scope: run, exit: 1, meaning: m, remedy: r}\n"
    for name in ("a.yaml", "b.yaml"):
        (codes / name).write_text(text)
    monkeypatch.setattr(errors.resources, "files", lambda package: tmp_path)
    with pytest.raises(AssertionError, match="a.yaml and in b.yaml"):
        errors.code_table.__wrapped__()


@pytest.mark.parametrize("kind", [Seg1aError, UsageError, StagingError, NotPassed])
def test_errors_survive_pickling(kind):
    error = pickle.loads(pickle.dumps(kind("E_PARAM_IO", "no such file", filename="a.yaml", errno=2)))
    assert type(error) is kind and str(error) == "E_PARAM_IO: no such file"
    assert error.detail == {"filename": "a.yaml", "errno": 2} and error.failure_code == "param_file_unreadable"


def test_unknown_code():
    with pytest.raises(AssertionError, match="E_NOPE"):
        Seg1aError("E_NOPE", "x")


def test_light_modules_stay_light():
    heavy = "{'numba', 'numpy', 'pyarrow', 'pandas', 'ruamel.yaml', 'jsonschema'}"
    program = f"import sys, seg1a.core.errors, seg1a.core.encoding, seg1a.core.lineage, seg1a.core.run; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_code_in_the_source_is_in_the_table():
    raised = re.compile(r"""(?:Seg1aError|UsageError|StagingError|NotPassed|Finding)\(\s*["']([A-Za-z0-9_]+)["']""")
    unknown = {(path.name, code) for path in PACKAGE.rglob("*.py") for code in raised.findall(path.read_text("utf-8")) if code not in code_table()}
    assert not unknown
