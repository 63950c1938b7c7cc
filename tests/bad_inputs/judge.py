"""One case, as a user types it: what came back, what it cost, what was left, and what is wrong with that."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bad_inputs.cases import MERCHANTS, PASS, VALIDATION, Case, table
from run_support import FLAGS
from s0_support import changed, few_coefficients

from seg1a.core.errors import code_table
from seg1a.inputs.pack import overlay_pack

CHECKOUT = Path(__file__).resolve().parents[2]
MOST_SECONDS, MOST_BYTES, DATA_LIMIT = 5.0, 1 << 30, 3 << 30
MERCHANT_COUNT = 40
LONGEST_LINE = 900  # characters: a message that fills the screen names no place
EVIDENCE = re.compile(r"validation/failures/[^/]+/[^/]+/[^/]+/(failure\.json|_FAILED\.SENTINEL\.json)|run_summary\.json|logs/telemetry/(execution_stamp|run_environ)\.json")


def make_world(small_pack: Path, folder: Path) -> Path:
    """The pack that is damaged: few merchants, short coefficient files, and corridors in which so few merchants always stay."""
    wide = changed(small_pack, VALIDATION, lambda content: content["s2"]["corridors"].update(rho_reject_max=0.9, p99_max=99))
    few = table(MERCHANTS, lambda content: content.slice(0, MERCHANT_COUNT))(small_pack)
    return overlay_pack(small_pack, few_coefficients(small_pack) | wide | few, folder / "world")


@dataclass
class Outcome:
    """What a case did."""

    case: Case
    done: subprocess.CompletedProcess
    places: dict[str, str]
    out: Path

    @property
    def verdict(self) -> str:
        """The last line of stdout."""
        return self.done.stdout.splitlines()[-1] if self.done.stdout else ""


def run_case(case: Case, world: Path, folder: Path, run: Callable) -> Outcome:
    """Make the pack of the case below `folder`, and type the command."""
    scratch, out, pack = folder / "tmp", folder / "out", world
    scratch.mkdir(parents=True)
    if case.overlay is not None:
        pack = overlay_pack(world, case.overlay(world), folder / "pack")
    elif case.damage is not None:
        pack = Path(shutil.copytree(world, folder / "pack"))
    if case.damage is not None:
        case.damage(pack)
    places = {"{tmp}": str(scratch), "{out}": str(out), "{pack}": str(pack), "{checkout}": str(CHECKOUT)}
    for name, data in case.files.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / name).write_bytes(data)
    arguments = case.arguments
    if arguments is None:
        arguments = ("run", "--pack", "{pack}", "--output-dir", "{out}", "--no-notebooks", "--quiet", *FLAGS, *case.flags)
    done = run([filled(word, places) for word in arguments], folder, os.environ | {name: filled(value, places) for name, value in case.environment.items()}, DATA_LIMIT)
    return Outcome(case, done, places, out)


def filled(word: str, places: dict[str, str]) -> str:
    """A word with the places that this case has."""
    for name, place in places.items():
        word = word.replace(name, place)
    return word


def problems(outcome: Outcome) -> list[str]:
    """Everything that is wrong with an outcome; nothing when the case is as it should be."""
    return [*_wrong_answer(outcome), *_wrong_manner(outcome), *_left(outcome)]


def _wrong_answer(outcome: Outcome) -> list[str]:
    case, done, verdict = outcome.case, outcome.done, outcome.verdict
    if case.code == PASS:
        return [] if done.returncode == 0 and verdict.startswith(("PASS ", "BUILT ")) else [f"a legal input is refused: {verdict}"]
    found = []
    if (word := verdict.split(" ")[1:2]) != [case.code] or not verdict.startswith("FAIL "):
        found.append(f"code {word}, not {case.code}")
    if done.returncode != case.exit:
        found.append(f"exit {done.returncode}, not {case.exit}")
    if case.code not in code_table():
        found.append(f"{case.code} is in no table")
    return found + [f"the message does not name {name!r}" for name in (filled(name, outcome.places) for name in case.names) if name not in verdict]


def _wrong_manner(outcome: Outcome) -> list[str]:
    done, found = outcome.done, []
    printed = done.stdout + done.stderr
    if "Traceback" in printed or "Error:" in done.stderr:
        found.append(f"a traceback: {done.stderr[-600:]}")
    if strange := [line for line in done.stderr.splitlines() if not line.startswith("seg1a: ")]:
        found.append(f"a line on stderr that is not ours: {strange[0][:200]}")
    if (longest := max(map(len, printed.splitlines()), default=0)) > LONGEST_LINE + 2 * len(str(outcome.out)):
        found.append(f"a line of {longest} characters")
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", printed):
        found.append("a control character reaches the terminal")
    if done.cpu_seconds > MOST_SECONDS:
        found.append(f"{done.cpu_seconds:.1f} s")
    if done.peak_bytes > MOST_BYTES:
        found.append(f"{done.peak_bytes / 2**20:.0f} MiB")
    return found


def _left(outcome: Outcome) -> list[str]:
    """What a refusal left beside its evidence."""
    case, out = outcome.case, outcome.out
    if case.code == PASS:
        return []
    files = [path for path in out.rglob("*") if path.is_symlink() or not path.is_dir()]
    if case.exit == 2 or case.arguments is not None or not case.evidence:
        return [f"left: {files[0]}"] if files else []
    names = {path.relative_to(out).as_posix().partition("/run_id=")[2].partition("/")[2]: path for path in files}
    found = [f"left: {name or path}" for name, path in names.items() if not EVIDENCE.fullmatch(name)]
    return found[:3] + _record_problems(case, names)


def _record_problems(case: Case, names: dict[str, Path]) -> list[str]:
    """What the failure record and the summary do not say."""
    records = [path for name, path in names.items() if name.endswith("/failure.json")]
    if len(records) != 1 or "run_summary.json" not in names:
        return [f"{len(records)} failure records, summary: {'run_summary.json' in names}"]
    record, summary = json.loads(records[0].read_bytes()), json.loads(names["run_summary.json"].read_bytes())
    if (record["error_code"], summary["run"]["failure"]["code"], summary["gate"]["status"]) != (case.code, case.code, "FAIL"):
        return [f"the record says {record['error_code']}, the summary {summary['run']['failure']['code']} and {summary['gate']['status']}"]
    return [] if record["detail"]["message"] else ["the record has no message"]
