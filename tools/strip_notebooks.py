#!/usr/bin/env python3
"""Keep notebooks free of outputs, so that a diff shows what a person wrote.

  strip_notebooks.py NBS...           drop outputs, counts and foreign metadata; write canonical JSON
  strip_notebooks.py --check NBS...   only say which notebooks are not stripped; exit 1 if there are any

Canonical: keys sorted, indent 1, LF at the end; of a cell's metadata only `tags` stays, because papermill needs it.
"""
import argparse
import json
import sys
from pathlib import Path

KERNELSPEC = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}


def stripped(notebook: dict) -> dict:
    """The notebook without anything that running it leaves behind."""
    cells = []
    for cell in notebook["cells"]:
        tags = cell.get("metadata", {}).get("tags")
        kept = {
            "cell_type": cell["cell_type"],
            "id": cell["id"],
            "metadata": {"tags": tags} if tags else {},
            "source": "".join(cell["source"]).splitlines(keepends=True),
        }
        if cell["cell_type"] == "code":
            kept |= {"execution_count": None, "outputs": []}
        cells.append(kept)
    return {"cells": cells, "metadata": KERNELSPEC, "nbformat": 4, "nbformat_minor": 5}


def canonical_text(notebook: dict) -> str:
    """The one text of a stripped notebook."""
    return json.dumps(stripped(notebook), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def notebooks_below(paths: list[Path]) -> list[Path]:
    """All notebooks in the given files and folders, in the order of their paths."""
    found = [p for path in paths for p in ([path] if path.is_file() else path.rglob("*.ipynb"))]
    return sorted(p for p in found if ".ipynb_checkpoints" not in p.parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 when something would change")
    args = parser.parse_args()
    dirty = []
    for path in notebooks_below(args.paths):
        before = path.read_text("utf-8")
        after = canonical_text(json.loads(before))
        if after != before:
            dirty.append(path)
            if not args.check:
                path.write_text(after, "utf-8")
    for path in dirty:
        print(f"{'not stripped' if args.check else 'stripped'}: {path}", file=sys.stderr)
    return 1 if args.check and dirty else 0


if __name__ == "__main__":
    sys.exit(main())
