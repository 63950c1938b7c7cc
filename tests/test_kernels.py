"""The kernel decorator: what its cache depends on, and where it lies."""

import json
import os
import shutil
import subprocess
import sys

import numba
import numpy as np
import pytest

from seg1a.core import kernels
from seg1a.core.kernels import is_compiled, kernel, kernel_cache_dir, kernel_digest, kernel_sources
from seg1a.core.lineage import package_root


@pytest.fixture
def package(tmp_path, monkeypatch):
    "A package named seg1a of modules a, b, c, d, and no memory of the real one."
    root = tmp_path / "seg1a"
    (root / "core").mkdir(parents=True)
    for init in ("__init__.py", "core/__init__.py"):
        (root / init).touch()
    monkeypatch.setattr(kernels, "package_root", lambda: root)
    kernels._imports.cache_clear()
    kernel_digest.cache_clear()
    yield root / "core"
    kernels._imports.cache_clear()
    kernel_digest.cache_clear()


@pytest.mark.parametrize("statement", [
    "from seg1a.core.b import x", "from .b import x", "from . import b", "import seg1a.core.b", "from seg1a.core import b as other", "from ..core import b", "from ..core.b import (x,\n y)",
    "def f():\n    from .b import x", "import os, seg1a.core.b as z", "try:\n    from .b import x\nexcept ImportError:\n    x = None",
])
def test_every_form_of_import_is_followed(package, statement):
    (package / "a.py").write_text(statement + "\n")
    (package / "b.py").write_text("import numpy\nfrom .c import y\n")
    (package / "c.py").write_text("from .a import z  # a circle\n")
    (package / "d.py").write_text("")
    names = {path.name for path in kernel_sources(package / "a.py")} - {"__init__.py"}
    assert names == {"a.py", "b.py", "c.py"}


def test_the_digest_follows_its_sources_and_no_others(package):
    (package / "a.py").write_text("from .b import x\n")
    (package / "b.py").write_text("x = 1\n")
    (package / "d.py").write_text("x = 1\n")
    first = kernel_digest(package / "a.py")
    (package / "d.py").write_text("x = 2\n")
    kernels.kernel_digest.cache_clear()
    assert kernel_digest(package / "a.py") == first
    (package / "b.py").write_text("x = 2\n")
    kernels.kernel_digest.cache_clear()
    assert kernel_digest(package / "a.py") != first


@pytest.mark.parametrize("variable", ["NUMBA_CACHE_DIR", "SEG1A_CACHE_DIR", "XDG_CACHE_HOME", "HOME"])
def test_the_cache_root(tmp_path, monkeypatch, variable):
    for name in ("NUMBA_CACHE_DIR", "SEG1A_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    folder = kernel_cache_dir.__wrapped__(package_root() / "core" / "kernels.py")
    assert folder.is_dir() and tmp_path in folder.parents and folder.parent.name == "kernels"


def test_nowhere_to_write(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert kernel_cache_dir.__wrapped__(package_root() / "core" / "kernels.py") is None


def test_functions_outside_the_package_are_not_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))

    @kernel
    def total(xs):
        s = np.uint64(0)
        for x in xs:
            s += x
        return s

    assert total(np.array([2**63, 5], dtype=np.uint64)) == 2**63 + 5
    assert not list(tmp_path.rglob("*.nbc"))
    assert not is_compiled(package_root() / "core" / "errors.py")


def test_numbas_own_setting_is_left_as_it_was():
    before = numba.config.CACHE_DIR
    kernel(test_nowhere_to_write)
    assert numba.config.CACHE_DIR == before


def test_a_changed_callee_in_another_module_is_never_stale(tmp_path):
    """The real package, copied: `uniform1_k` of samplers calls `philox_block` of philox, which calls `wide_product` of a third module."""
    shutil.copytree(package_root(), tmp_path / "seg1a", ignore=shutil.ignore_patterns("__pycache__"))
    program = "import numpy as np; from seg1a.core.samplers import uniform1_k; print(uniform1_k(np.uint64(7), np.uint64(0), np.uint64(1)).hex())"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}

    def answer() -> str:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def edit(name: str, old: str, new: str) -> None:
        path = tmp_path / "seg1a" / "core" / name
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))

    def philox(key: int, lo: int, rounds: int) -> str:
        a, b = lo, 0
        for _ in range(rounds):
            product = 0xD2B74407B1CE6E93 * a
            a, b = (product >> 64) ^ key ^ b, product % 2**64
            key = (key + 0x9E3779B97F4A7C15) % 2**64
        return ((float(a) + 1.0) * 2.0**-64).hex()

    first = answer()
    assert first == philox(7, 1, 10)
    edit("philox.py", "for _ in range(10):", "for _ in range(9):")
    assert answer() == philox(7, 1, 9) != first
    edit("philox.py", "for _ in range(9):", "for _ in range(10):")
    assert answer() == first


def test_compilations_are_noted_where_somebody_asks(tmp_path, monkeypatch):
    @kernel
    def inner(x):
        return 2 * x

    @kernel
    def outer(x):
        return inner(x) + 1

    monkeypatch.setenv(kernels.COMPILATIONS, str(tmp_path / "compiled.jsonl"))
    assert outer(3) == outer(4) - 2 == 7
    (line,) = (tmp_path / "compiled.jsonl").read_text().splitlines()
    assert json.loads(line)["kernel"].endswith("outer") and json.loads(line)["seconds"] > 0.0
    monkeypatch.setenv(kernels.COMPILATIONS, str(tmp_path / "no" / "such" / "folder"))
    assert outer(1.5) == 4.0


def test_imports_are_remembered_by_text_and_survive_a_memory_that_is_broken(package, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    memory = tmp_path / "cache" / "kernels" / "imports.json"
    (package / "a.py").write_text("from .b import x\n")
    (package / "b.py").write_text("x = 1\n")
    (package / "c.py").write_text("y = 1\n")
    both = kernel_sources(package / "a.py")
    assert len(json.loads(memory.read_text())) == len(both)
    for content in (memory.read_bytes(), b"", b"[1]", b"{"):
        memory.write_bytes(content)
        kernels._imports.cache_clear()
        kernels._remembered.cache_clear()
        assert kernel_sources(package / "a.py") == both
    (package / "a.py").write_text("from .c import y\n")
    kernels._imports.cache_clear()
    assert {path.name for path in kernel_sources(package / "a.py")} - {"__init__.py"} == {"a.py", "c.py"}
