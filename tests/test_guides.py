"""The commands of the guides run as they stand, in order, and print what the guides show; their Python runs.

In what a guide shows, `…` stands for anything in a line, and a line `…` for any lines. A block behind `<!-- guide: not run -->` is left out."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

GUIDES = ("operator", "reviewer", "modeller", "policy")
BLOCK = re.compile(r"^(<!-- guide: not run -->\n)?^```(console|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
ASSIGNMENT = re.compile(r"^[A-Za-z_]+=\S+$|^[A-Za-z_]+=\$\(.*\)$")


def blocks(path: Path) -> list[tuple[str, str]]:
    """Language and text of the blocks that are run."""
    return [(language, text) for skipped, language, text in BLOCK.findall(path.read_text("utf-8")) if not skipped]


def commands(text: str) -> list[tuple[str, str]]:
    """(command, what it prints) of a session."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert parts[0] == "", f"a block begins with {parts[0]!r}"
    return [(command, printed) for command, _, printed in (part.partition("\n") for part in parts[1:])]


def pattern(shown: str) -> str:
    """What a guide shows, as a regular expression for all that was printed."""
    lines = [r"(?:.*\n)*?" if line == "…" else r"[^\n]*?".join(map(re.escape, line.split("…"))) + r"[ ]*\n" for line in shown.splitlines()]
    return "".join(lines)


@dataclass
class Session:
    """A shell in a folder; `seg1a` runs in a copy of the prepared process."""

    folder: Path
    seg1a: object
    before: list[str] = field(default_factory=list)  # assignments so far
    status: int = 0

    def bash(self, command: str) -> subprocess.CompletedProcess:
        text = "\n".join([*self.before, f"(exit {self.status})", command])
        return subprocess.run(["bash", "-c", text], cwd=self.folder, capture_output=True, text=True, timeout=120, env=os.environ | {"LC_ALL": "C.UTF-8"})

    def run(self, command: str) -> str:
        """What the command prints; its status is kept."""
        if ASSIGNMENT.match(command):
            self.before.append(command)
            return ""
        if not command.startswith("seg1a "):
            done = self.bash(command)
        else:
            words, _, target = command.removeprefix("seg1a ").partition(" > ")
            expanded = self.bash(f"printf '%s\\0' {words}")
            done = self.seg1a(*expanded.stdout.split("\0")[:-1], cwd=self.folder)
            if target:
                (self.folder / target).write_text(done.stdout, "utf-8")
                done.stdout = ""
        self.status = done.returncode
        # a machine that has to compile says so; that is no part of what is shown
        return re.sub(r"compiling kernels, .*\n|, [\d.]+ s of it compiling", "", done.stderr) + done.stdout


@pytest.fixture
def session(checkout, seg1a, tmp_path) -> Session:
    """A folder with the policies and reference tables of the checkout, and the merchants of the modeller's guide."""
    for name in ("policies", "reference"):
        shutil.copytree(checkout / name, tmp_path / name)
    (tmp_path / "merchants.csv").write_text("merchant_id,mcc,channel,home_country_iso\n1001,5411,card_present,GB\n1002,5812,card_present,FR\n1003,5816,card_not_present,US\n9223372036854775807,7011,card_present,IT\n")
    return Session(tmp_path, seg1a)


@pytest.mark.parametrize("name", GUIDES)
def test_its_commands_do_what_it_shows(checkout, session, monkeypatch, name):
    for language, text in blocks(checkout / "nbs" / "guides" / f"{name}.md"):
        if language == "python":
            monkeypatch.chdir(session.folder)
            exec(text, {})
            continue
        for command, shown in commands(text):
            printed = session.run(command)
            assert re.fullmatch(pattern(shown), printed), f"$ {command}\nthe guide shows\n{shown}\nand it prints\n{printed}"


@pytest.mark.parametrize("shown, printed, same", [("PASS …/x\n", "PASS a/b/x\n", True), ("PASS …/x\n", "FAIL a/x\n", False), ("a\n…\nb\n", "a\nb\n", True), ("a\n…\nb\n", "a\n1\n2\nb\n", True), ("a\n", "a\nb\n", False), ("", "a\n", False)])
def test_what_is_shown_is_compared_whole(shown, printed, same):
    assert bool(re.fullmatch(pattern(shown), printed)) is same


def test_a_block_that_is_left_out_says_so(tmp_path):
    path = tmp_path / "g.md"
    path.write_text("<!-- guide: not run -->\n```console\n$ a\n```\n\n```console\n$ b\n```\n")
    assert blocks(path) == [("console", "$ b\n")] and commands("$ a\n1\n$ b\n") == [("a", "1\n"), ("b", "")]
