"""What does little loads little: counted in modules, since seconds depend on the machine."""

import json
import subprocess
import sys

import pytest

LOADED = """
import json, sys
before = set(sys.modules)
{statement}
print(json.dumps(sorted(set(sys.modules) - before)))
"""
COMMAND = """
from seg1a.operations.cli import main
try:
    main({words})
except SystemExit as end:
    assert not end.code, end.code
"""


def loaded_by(statement: str) -> list[str]:
    """The modules that a statement loads in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", LOADED.format(statement=statement)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def foreign(modules: list[str]) -> set[str]:
    """Those that are neither of the standard library nor of the package."""
    return {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) - {"seg1a"}


@pytest.mark.parametrize("words", [["--version"], ["run", "--help"], ["verify", "--help"], ["pack", "build", "--help"]], ids=" ".join)
def test_version_and_help_load_no_library(words):
    modules = loaded_by(COMMAND.format(words=words))
    assert foreign(modules) == set() and "seg1a.operations.cli" in modules
    assert len(modules) < 120 and len([name for name in modules if name.startswith("seg1a")]) <= 8, modules


def test_importing_the_package_loads_nothing():
    assert loaded_by("import seg1a") == ["seg1a"]


def test_a_library_would_be_noticed():
    assert "numpy" in foreign(loaded_by("import seg1a.core.rows"))
