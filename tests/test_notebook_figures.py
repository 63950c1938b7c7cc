"""The notebooks keep to the figures that they are held to: hard ones each, soft ones all together."""

import ast
import json
import sys
import warnings
from functools import cache
from pathlib import Path
from statistics import median

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "tools"))

from notebook_figures import measure as measured  # noqa: E402
from notebook_figures import parsed, quantile, source  # noqa: E402

measure = cache(measured)
SCREEN, MODULE = 60, 450
NOTEBOOKS = [path for path in sorted((CHECKOUT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]

# Hard figures that are broken for clarity, with the reason.
EXCEPTIONS = {
    ("states/30_s3_predicates.ipynb", "module"): "one small language, whole: reader, checks and evaluation stand side by side",
}


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT / "nbs").as_posix()


def longest_cell(path: Path) -> int:
    """Lines of the longest code cell, directives left out."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return max((len(source(cell).split("\n")) for cell in cells if cell["cell_type"] == "code"), default=0)


def longest_function(path: Path) -> int:
    """Lines of the longest function of any code cell."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    trees = [parsed(source(cell)) for cell in cells if cell["cell_type"] == "code"]
    return max((node.end_lineno - node.lineno + 1 for tree in trees for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))), default=0)


def hard_breaches(path: Path) -> list[str]:
    """The hard figures that a notebook breaks, one word each."""
    figures = measure(path)
    found = {"cell": longest_cell(path) > SCREEN, "function": longest_function(path) > SCREEN, "module": figures.module > MODULE, "docstring": figures.documented < figures.functions}
    return [word for word, broken in found.items() if broken]


def test_no_notebook_breaks_a_hard_figure():
    broken = {(name_of(path), word) for path in NOTEBOOKS for word in hard_breaches(path)}
    assert broken <= set(EXCEPTIONS), f"beyond a screen, a page, or without a docstring: {sorted(broken - set(EXCEPTIONS))}"
    if idle := set(EXCEPTIONS) - broken:
        warnings.warn(f"exceptions that are no longer needed: {sorted(idle)}", stacklevel=1)


def test_the_soft_figures_hold_for_all_together():
    found = [measure(path) for path in NOTEBOOKS if path.parent.name != "runs"]
    lengths = tuple(length for figures in found for length in figures.lengths)
    assert median(lengths) <= 12 and quantile(lengths, 0.9) <= 25
    assert round(median(figures.prose for figures in found), 2) >= 0.25
    assert sum(figures.assertions for figures in found) >= 1.5 * sum(figures.functions for figures in found)
    told = [f"{figures.name}: {'; '.join(outliers)}" for figures in found if (outliers := figures.outliers())]
    warnings.warn(f"{len(told)} of {len(found)} notebooks are out of a soft figure; tools/notebook_figures.py lists them", stacklevel=1)


@pytest.mark.parametrize("code, breach", [
    ("\n".join(f"x{i} = {i}" for i in range(61)), "cell"),
    ("def f():\n    'd'\n" + "\n".join(f"    x = {i}" for i in range(60)), "function"),
    ("#| export\ndef f():\n    return 1", "docstring"),
    ("#| export\ndef f():\n    'Says what.'\n    return 1", None),
])
def test_a_breach_would_be_noticed(tmp_path, monkeypatch, code, breach):
    import notebook_figures

    monkeypatch.setattr(notebook_figures, "ROOT", tmp_path)
    path = tmp_path / "nbs" / "n.ipynb"
    path.parent.mkdir()
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": code}]}))
    assert (breach in hard_breaches(path)) if breach else not hard_breaches(path)
