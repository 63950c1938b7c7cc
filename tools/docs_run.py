"""A sample run: a small pack, all lanes of S3, its executed notebooks, its bundle, its verdict."""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from docs_html import Markdown, Page, code_block, escape, table_html
from docs_notebooks import Figures, notebook_page

MERCHANTS = 2000
REPORT = "report.html"
COMMANDS = (
    ["pack", "build", "pack", "--merchants", str(MERCHANTS), "--pack-version", "sample"],
    ["run", "--pack", "pack", "--output-dir", "runs", "--seed", "7", "--start-time-ns", "1767225600000000000", "--git-commit", "0" * 40, "--s3-priors", "--s3-integerisation", "--s3-sequencing"],
    ["verify", "runs/latest"],
    ["alerts", "runs/latest"],
    *([["report", "runs/latest", "-o", REPORT]] if find_spec("seg1a.operations.cli_report") else []),
)
SUBTITLE = f"{MERCHANTS:,} merchants, all lanes of S3: what `seg1a run` leaves behind"


def _digest(root: Path) -> str:
    """What the run depends on: all code, policies and reference tables, and these commands."""
    total = hashlib.sha256(json.dumps(COMMANDS).encode())
    for path in sorted([*(root / "seg1a").rglob("*.py"), *(root / "seg1a").rglob("*.yaml"), *(root / "seg1a" / "runs").glob("*.ipynb"), *(root / "policies").iterdir(), *(root / "reference").iterdir()]):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def sample_run(root: Path, cache: Path, say: Callable[[str], None]) -> Path:
    """The folder of the sample run: `session.json` (commands and what they printed) and `runs/latest`; made when the cache does not have it."""
    folder = cache / "run" / _digest(root)
    if folder.exists():
        return folder
    say(f"a sample run of {MERCHANTS:,} merchants")
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.parent.mkdir(parents=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent))
    session = []
    for command in COMMANDS:
        paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run([sys.executable, "-m", "seg1a", *command], cwd=work, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
        if done.returncode:
            raise SystemExit(f"seg1a {' '.join(command)} ended with status {done.returncode}: {done.stderr[-3000:]}")
        session.append([command, done.stdout])
    (work / "session.json").write_text(json.dumps(session), "utf-8")
    work.rename(folder)
    return folder


def _tree(run: Path) -> list[list[str]]:
    """The folders of a run root with number and size of their files, hashes shortened."""
    found: dict[str, list[int]] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        parts = [part if len(part) < 40 else part[:part.find("=") + 9] + "…" for part in path.relative_to(run).parts]
        place = "/".join(parts[:-1]) + "/" if len(parts) > 1 else parts[-1]
        counts = found.setdefault(place, [0, 0])
        counts[0] += 1
        counts[1] += path.stat().st_size
    return [[f"<code>{escape(name)}</code>", str(count), f"{size:,}"] for name, (count, size) in found.items()]


def _index(folder: Path, names) -> Page:
    """The first page: commands, verdict, what lies where."""
    page = Page("run/index.html", "A sample run", "A run", subtitle=escape(SUBTITLE).replace("`seg1a run`", "<code>seg1a run</code>"), label="Overview")
    markdown = Markdown(page, names.place)
    session = json.loads((folder / "session.json").read_text("utf-8"))
    parts = [markdown.html("Everything here was made while the site was built. The seed, the start time and the pack are fixed, so these are the bytes that anybody gets with this version.\n\n## The commands\n")]
    for command, printed in session:
        shown = "seg1a " + " ".join(command)
        lines = [line if len(line) < 100 else line[:97] + "…" for line in printed.rstrip("\n").split("\n")]
        parts.append(markdown.html("```console\n$ " + shown.replace(" --start", " \\\n      --start").replace(" --s3-priors", " \\\n      --s3-priors") + "\n" + "\n".join(lines[-12:]) + "\n```\n"))
    if (folder / REPORT).exists():
        parts.append(markdown.html(f"The last command made [the report]({REPORT}), one file to read and to sign.\n"))
    root = (folder / "runs" / "latest").resolve()
    summary = json.loads((root / "run_summary.json").read_text("utf-8"))
    parts.append(markdown.html("## What each state found\n\nExecuted notebooks: [S0](s0.html), [S1](s1.html), [S2](s2.html), [S3](s3.html), [S4](s4.html). In the bundle they lie under `notebooks/` and are sealed like everything else.\n"))
    for state in ("s0", "s1", "s2", "s3", "s4"):
        facts = summary[state]
        rows = [[f"<code>{escape(name)}</code>", f"{value:,}" if isinstance(value, int) else f"{value:.6g}"] for name, value in facts["metrics"].items() if isinstance(value, (int, float)) and not isinstance(value, bool)]
        written = ", ".join(f"{count:,} rows of `{name}`" for name, count in facts["rows"].items())
        parts.append(markdown.heading(3, state.upper()) + markdown.html(f"Wrote {written}.") + f"<details class=more><summary>{len(rows)} statistics</summary>{table_html(['statistic', 'value'], rows, 'summary')}</details>\n")
    parts.append(markdown.html("## What it left\n\nThe [contracts](../contracts/index.html) say what each file means.\n") + table_html(["folder or file", "files", "bytes"], _tree(root), "tree"))
    parts.append(markdown.html("## The flag\n\nThe last thing that is written. [The reviewer's guide](../guides/reviewer.html) computes it by hand.\n"))
    flag = next((root / "validation_bundle").glob("*/_passed.flag"))
    parts.append(code_block(flag.read_text("ascii"), "", "output"))
    page.body = "".join(parts)
    return page


def run_pages(root: Path, folder: Path | None, figures: Figures, names) -> list[Page]:
    """The first page and the notebooks; without a run the notebooks stand as they are written."""
    if folder is None:
        index = Page("run/index.html", "A sample run", "A run", subtitle="Not part of this build", label="Overview", body="<p>This build made no run; the notebooks stand here without outputs.</p>")
        notebooks = root / "nbs" / "runs"
    else:
        if (folder / REPORT).exists():
            figures.files[f"run/{REPORT}"] = (folder / REPORT).read_bytes()
        index, notebooks = _index(folder, names), next((folder / "runs" / "latest" / "validation_bundle").glob("*/notebooks"))
    pages = [index]
    for path in sorted(notebooks.glob("s*.ipynb")):
        page = notebook_page(f"run/{path.name}", json.loads(path.read_bytes()), "A run", "", figures, names.place, lambda page: lambda target: target, lambda module, page: "")
        page.label = page.title.removeprefix("Run: ")
        pages.append(page)
    return pages
