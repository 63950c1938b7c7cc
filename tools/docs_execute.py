"""Notebooks with their outputs: run in copies of a prepared process, and remembered until something that they use changes."""
import ast
import hashlib
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from test_notebooks import PREPARED

TIMEOUT = 600
ENVIRONMENT = {"MPLBACKEND": "agg", "PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8", "COLUMNS": "110", "IN_TEST": "1"}


class NotebookFailed(Exception):
    """A cell raised, or the process died; the text says where."""


def source(cell: dict) -> str:
    """The text of a cell."""
    return "".join(cell["source"])


def _imported(text: str, package: str) -> set[str]:
    """Dotted names below seg1a that a piece of Python may import; `package` resolves relative imports."""
    code = "\n".join(line for line in text.split("\n") if not line.lstrip().startswith(("%", "!")))
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return set()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] == "seg1a"}


class Sources:
    """Digests of what a notebook's outputs may depend on."""

    def __init__(self, root: Path):
        """`root` is the checkout."""
        self.root = root
        data = [path for folder in ("seg1a/core/contracts", "policies", "reference", "seg1a/runs") for path in sorted((root / folder).rglob("*")) if path.is_file()]
        self._common = hashlib.sha256()
        for path in [*data, root / "requirements" / "lock.txt", Path(__file__)]:
            self._common.update(hashlib.sha256(path.read_bytes()).digest())
        self._imports: dict[Path, set[Path]] = {}

    def _module(self, name: str) -> Path | None:
        """The file of a module of the package."""
        place = self.root.joinpath(*name.split("."))
        return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)

    def _reached(self, names: Iterable[str]) -> set[Path]:
        """The files of these modules and of all that they import."""
        reached, todo = set(), [path for name in names if (path := self._module(name))]
        while todo:
            path = todo.pop()
            if path in reached:
                continue
            reached.add(path)
            if path not in self._imports:
                package = ".".join(path.relative_to(self.root).parent.parts)
                self._imports[path] = {file for name in _imported(path.read_text("utf-8"), package) if (file := self._module(name))}
            todo += self._imports[path]
        return reached

    def digest(self, notebook: Path) -> str:
        """SHA-256 over the notebook, the modules that it reaches, and the data of the checkout."""
        cells = json.loads(notebook.read_bytes())["cells"]
        names = {name for cell in cells if cell["cell_type"] == "code" for name in _imported(source(cell), "seg1a")}
        exported = next((found[1] for cell in cells if (found := re.search(r"^#\| *default_exp +(\S+)", source(cell), re.M))), None)
        total = self._common.copy()
        for path in [notebook, *sorted(self._reached(names | {f"seg1a.{exported}"}))]:
            total.update(hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()


def _run(path: str, target: str, log: str) -> None:
    """In the copy: run all cells, and write the notebook with its outputs to `target`; anything else goes to `log`."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(handle, stream)
    from execnb.nbio import dict2nb, nb2dict, read_nb
    from execnb.shell import CaptureShell

    os.environ.update(ENVIRONMENT)
    os.chdir(Path(path).parent)
    shell, notebook = CaptureShell(path, mpl_format="svg"), read_nb(path)
    try:
        shell.run_all(notebook, exc_stop=True)
    except BaseException:
        print(shell.prettytb(fname=path), flush=True)
        os._exit(1)
    Path(target).write_text(json.dumps(nb2dict(dict2nb(notebook)), ensure_ascii=False, default=str), "utf-8")


def _executed(path: Path, target: Path) -> dict:
    """One notebook, run now."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished, log = target.with_suffix(".part"), target.with_suffix(".log")
    process = multiprocessing.Process(target=_run, args=(str(path), str(unfinished), str(log)))
    process.start()
    process.join(TIMEOUT)
    if process.exitcode is None:
        process.kill()
        process.join()
    if process.exitcode != 0 or not unfinished.exists():
        raise NotebookFailed(f"{path} (status {process.exitcode}): {log.read_text('utf-8', 'replace')[-4000:] if log.exists() else 'no output'}")
    log.unlink()
    unfinished.replace(target)
    return json.loads(target.read_bytes())


def start_processes() -> None:
    """Make ready the process that runs are copies of; once, before the first."""
    if multiprocessing.get_start_method(allow_none=True) is None:
        multiprocessing.set_start_method("forkserver")
        multiprocessing.set_forkserver_preload(PREPARED)


def executed_notebooks(root: Path, paths: list[Path], cache: Path, workers: int, say: Callable[[str], None]) -> dict[Path, dict]:
    """Each notebook with its outputs. What the cache has is taken from it; what is run goes into it, and older outputs of the same notebook out of it.

    Raises NotebookFailed for the first cell that raises."""
    sources = Sources(root)

    def one(path: Path) -> dict:
        folder = cache / path.relative_to(root / "nbs").with_suffix("")
        target = folder / f"{sources.digest(path)}.json"
        if target.exists():
            return json.loads(target.read_bytes())
        found = _executed(path, target)
        for old in folder.glob("*.json"):
            if old != target:
                old.unlink()
        say(f"ran {path.relative_to(root)}")
        return found

    start_processes()
    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(paths, pool.map(one, paths)))
