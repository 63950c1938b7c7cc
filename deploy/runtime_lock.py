#!/usr/bin/env python3
"""The part of requirements/lock.txt that is needed to run, hashes included; the lock itself also holds what development needs.

  runtime_lock.py [--extra NAME]...    what settings.ini requires, and the extras NAME_requirements
  runtime_lock.py --only NAME...       what these packages need
"""
import argparse
import re
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[^]]*\])?==")


def canonical(requirement: str) -> str:
    """The canonical name of the package that a requirement is about."""
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)[0]).lower()


def read_lock(text: str) -> dict[str, tuple[str, set[str]]]:
    """name -> (its lines, the packages that asked for it); `uv pip compile` notes the latter below each pin."""
    blocks: dict[str, list[str]] = {}
    for line in text.splitlines():
        if pin := PIN.match(line):
            lines = blocks.setdefault(canonical(pin[1]), [])
        elif line.startswith("#") or not line.strip():
            continue
        lines.append(line)
    parents = {name: re.findall(r"^\s+#\s+(?:via )?([A-Za-z0-9][A-Za-z0-9._-]*)", "\n".join(lines), re.MULTILINE) for name, lines in blocks.items()}
    return {name: ("\n".join(lines), {canonical(parent) for parent in parents[name] if parent != "via"}) for name, lines in blocks.items()}


def needed(lock: dict[str, tuple[str, set[str]]], roots: set[str]) -> list[str]:
    """The names that the roots need, themselves included, in the order of the lock."""
    if absent := sorted(roots - lock.keys()):
        sys.exit(f"runtime_lock: the lock has no {', '.join(absent)}; make it again")
    found = set(roots)
    while more := {name for name, (_, parents) in lock.items() if name not in found and parents & found}:
        found |= more
    return [name for name in lock if name in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", action="append", default=[])
    parser.add_argument("--only", nargs="+", default=[])
    args = parser.parse_args()
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    keys = [] if args.only else ["requirements", *(f"{extra}_requirements" for extra in args.extra)]
    lock = read_lock((ROOT / "requirements" / "lock.txt").read_text("utf-8"))
    roots = {canonical(text) for text in args.only} | {canonical(text) for key in keys for text in settings["DEFAULT"][key].split()}
    for name in needed(lock, roots):
        print(lock[name][0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
