#!/usr/bin/env python3
"""The figures that the notebooks are held to: cells, prose, length of exported cells, assertions, size of the module.

  notebook_figures.py [FOLDER]            a line a notebook, the totals, then every figure that is out of its bounds
  notebook_figures.py --strict [FOLDER]   the same; exit 1 when one is
"""
import argparse
import ast
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
WORD = re.compile(r"[^\W\d_][\w'’-]*")
COLUMNS = ("cells", "prose %", "exported", "median", "p90", "longest", "asserts", "public", "a/public", "module")


@dataclass(frozen=True)
class Figures:
    """What was counted in one notebook. Lengths are lines of exported cells but imports, without directives; `module` is the file's lines."""

    name: str
    cells: int
    prose: float
    lengths: tuple[int, ...]
    assertions: int
    public: int
    functions: int
    documented: int
    module: int

    def per_function(self) -> float:
        """Assertions a public function."""
        return self.assertions / self.functions if self.functions else 0.0

    def row(self) -> tuple:
        """The figures in the order of COLUMNS."""
        return (self.cells, f"{self.prose:.0%}", len(self.lengths), median(self.lengths or (0,)), quantile(self.lengths, 0.9),
                max(self.lengths, default=0), self.assertions, self.public, f"{self.per_function():.1f}", self.module)

    def outliers(self) -> list[str]:
        """The figures out of their bounds, one phrase each."""
        bounds = (
            (self.cells, 30, 70, "cells"), (round(100 * self.prose), 25, 100, "% prose"), (median(self.lengths or (1,)), 0, 12, "lines, median exported cell"),
            (quantile(self.lengths, 0.9), 0, 25, "lines, 90th percentile of the exported cells"), (max(self.lengths, default=0), 0, 60, "lines, longest exported cell"),
            (self.per_function() if self.functions else 9, 1.5, 1e9, "assertions a public function"), (self.public, 0, 15, "public names"), (self.module, 0, 450, "lines of the module"),
            (self.functions - self.documented, 0, 0, "public functions without a docstring"),
        )
        return [f"{value:.3g} {what} ({low:g} to {high:g})" if high < 1e6 else f"{value:.3g} {what} (at least {low:g})" for value, low, high, what in bounds if not low <= value <= high]


def quantile(values: tuple[int, ...], q: float) -> int:
    """Nearest rank; 0 of nothing."""
    return sorted(values)[max(0, -(-int(len(values) * q * 100) // 100) - 1)] if values else 0


def source(cell: dict) -> str:
    """The text of a cell without its directives."""
    lines = "".join(cell["source"]).split("\n")
    return "\n".join(line for line in lines if not line.startswith("#|")).strip("\n")


def parsed(text: str) -> ast.Module:
    """The syntax tree; a cell with magics counts as empty."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return ast.Module([], [])


def prose_share(cells: list[dict]) -> float:
    """Words of the markdown cells over all words, those of the code included."""
    markdown = sum(len(WORD.findall(source(cell))) for cell in cells if cell["cell_type"] == "markdown")
    code = sum(len(WORD.findall(source(cell))) for cell in cells if cell["cell_type"] == "code")
    return markdown / (markdown + code) if markdown + code else 0.0


def public_definitions(cells: list[str]) -> tuple[set[str], list[ast.AST]]:
    """Public names of the exported cells as `__all__` lists them, and their functions and classes."""
    names, definitions = set(), []
    for node in (node for text in cells for node in parsed(text).body):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found = [node.name]
            definitions += [node] * (not node.name.startswith("_"))
        elif isinstance(node, ast.Assign):
            found = [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
        else:
            found = [node.target.id] if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else []
        names |= {name for name in found if not name.startswith("_")}
    return names, definitions


def measure(path: Path) -> Figures:
    """The figures of one notebook."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    exported = [source(cell) for cell in code if re.search(r"^#\| *export\b", "".join(cell["source"]), re.M)]
    target = next((match[1] for cell in code if (match := re.search(r"^#\| *default_exp +(\S+)", "".join(cell["source"]), re.M))), None)
    module = ROOT / "seg1a" / (target.replace(".", "/") + ".py") if target else None
    lengths = tuple(len(text.split("\n")) for text in exported if not all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in parsed(text).body))
    told = [cell for cell in code if source(cell) not in exported]
    assertions = sum(isinstance(node, ast.Assert) for cell in told for node in ast.walk(parsed(source(cell))))
    names, definitions = public_definitions(exported)
    functions = [node for node in definitions if isinstance(node, ast.FunctionDef)]
    lines = len(module.read_text("utf-8").splitlines()) if module and module.exists() else 0
    return Figures(path.relative_to(ROOT / "nbs").as_posix(), len(cells), prose_share(cells), lengths, assertions, len(names), len(functions),
                   sum(ast.get_docstring(node) is not None for node in functions), lines)


def table(found: list[Figures]) -> str:
    """A line a notebook, right-aligned."""
    width = max(len(figures.name) for figures in found)
    rows = [(figures.name, figures.row()) for figures in found]
    return "\n".join(f"{name:<{width}} " + " ".join(f"{cell!s:>8}" for cell in row) for name, row in [("notebook", COLUMNS), *rows])


def totals(found: list[Figures]) -> str:
    """The figures of all notebooks together."""
    lengths = tuple(length for figures in found for length in figures.lengths)
    functions, assertions = (sum(getattr(figures, name) for figures in found) for name in ("functions", "assertions"))
    return (f"{len(found)} notebooks: median {median(f.cells for f in found):g} cells, {median(f.prose for f in found):.0%} prose; exported cells: median {median(lengths):g} lines, "
            f"90th percentile {quantile(lengths, 0.9)}, longest {max(lengths)}; {assertions / functions:.1f} assertions a public function")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "nbs")
    parser.add_argument("--strict", action="store_true")
    arguments = parser.parse_args()
    paths = [path for path in sorted(arguments.folder.resolve().rglob("*.ipynb")) if "runs" not in path.parts and ".ipynb_checkpoints" not in path.parts]
    found = [measure(path) for path in paths]
    outliers = [f"{figures.name}: {'; '.join(told)}" for figures in found if (told := figures.outliers())]
    print(table(found), totals(found), "\n".join(outliers) or "every figure is within its bounds", sep="\n\n")
    return 1 if arguments.strict and outliers else 0


if __name__ == "__main__":
    sys.exit(main())
