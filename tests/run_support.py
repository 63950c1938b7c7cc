"""What the tests of whole runs share: flags that fix every sealed byte, and what a run left."""

import hashlib
import subprocess
from pathlib import Path

UNSEALED = ("logs/telemetry/", "run_summary.json")
FLAGS = ("--seed", "7", "--start-time-ns", "1700000000000000000", "--git-commit", "ab" * 20)
LANES = ("--s3-priors", "--s3-integerisation", "--s3-sequencing")


def last_line(done: subprocess.CompletedProcess) -> str:
    return done.stdout.splitlines()[-1] if done.stdout else f"(nothing on stdout; stderr: {done.stderr[-2000:]})"


def run_root(done: subprocess.CompletedProcess) -> Path:
    verdict, _, root = last_line(done).partition(" ")
    assert verdict == "PASS", last_line(done) + done.stderr[-3000:]
    return Path(root)


def sealed_files(root: Path) -> dict[str, str]:
    """Relative path -> digest of every file that must not depend on the machine."""
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(files.items()) if not name.startswith(UNSEALED)}
