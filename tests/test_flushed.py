"""What a power cut would show, seen from the system calls of a run: every file is flushed before it gets its name, and every name after it was given."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from crash_support import IN_PROCESS, RUN

CALLS = "openat,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir"
LINE = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)[( ]")


def calls(log: Path):
    """The traced calls that succeeded, in the order of their ends, each on one line."""
    begun: dict[str, str] = {}
    for line in log.read_text(errors="replace").splitlines():
        pid = line.split(" ", 1)[0]
        if line.endswith("<unfinished ...>"):
            begun[pid] = line.removesuffix("<unfinished ...>")
            continue
        if "resumed>" in line:
            line = begun.pop(pid, pid + " ") + line.partition("resumed>")[2]
        if LINE.match(line) and " = -1 " not in line:
            yield LINE.match(line)[2], line


class Disk:
    """What is not on the disk yet, below a folder."""

    def __init__(self, folder: Path):
        self.folder, self.dirty, self.loose, self.wrong, self.renames = str(folder), set(), {}, [], 0

    def take(self, call: str, line: str) -> None:
        if call == "openat":
            opened = re.search(r"= \d+<([^>]*)>", line)
            if opened and re.search(r"O_WRONLY|O_RDWR", line) and opened[1].startswith(self.folder):
                self.dirty.add(opened[1])
                if "O_CREAT" in line:
                    self.loose[opened[1]] = os.path.dirname(opened[1])
        elif call in ("fsync", "fdatasync"):
            path = re.search(r"\(\d+<([^>]*)>", line)[1]
            self.dirty.discard(path)
            self.loose = {name: parent for name, parent in self.loose.items() if parent != path}
        else:
            paths = [path for path in re.findall(r'"((?:[^"\\]|\\.)*)"', line) if path.startswith(self.folder)]
            if paths:
                {"rename": self.rename, "mkdir": self.mkdir, "unlink": self.remove, "rmdir": self.remove}[call.removesuffix("2").removesuffix("at")](*paths)

    def mkdir(self, path: str) -> None:
        self.loose[path] = os.path.dirname(path)

    def remove(self, path: str) -> None:
        self.dirty.discard(path)
        self.loose.pop(path, None)

    def rename(self, old: str, new: str) -> None:
        self.renames += 1
        below = (old, old + "/")
        if unflushed := [path for path in self.dirty if path == old or path.startswith(below[1])]:
            self.wrong += [path for path in unflushed if not path.endswith("run.lock")]
        move = lambda path: new + path[len(old) :] if path == old or path.startswith(below[1]) else path  # noqa: E731
        self.dirty = {move(path) for path in self.dirty}
        self.loose = {move(path): move(parent) for path, parent in self.loose.items() if path != old} | {new: os.path.dirname(new)}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
def test_nothing_has_a_name_that_is_not_on_the_disk(tiny_pack, tmp_path):
    log, output = tmp_path / "calls", tmp_path / "out"
    command = ["strace", "-f", "-y", "-s", "4096", "-e", f"trace={CALLS}", "-o", str(log), sys.executable, "-m", "seg1a", *RUN, *IN_PROCESS, "--pack", str(tiny_pack), "--output-dir", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    if not log.exists() or not log.stat().st_size:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr[-2000:]
    disk = Disk(output)
    for call, line in calls(log):
        disk.take(call, line)
    assert disk.renames > 60 and disk.wrong == []
    still = {path for path in disk.dirty | disk.loose.keys() if os.path.lexists(path) and not path.endswith("run.lock") and path != str(output)}
    assert still == set(), sorted(still)
