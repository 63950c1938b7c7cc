"""The wheel: no governed data inside, and it runs outside the checkout."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(checkout)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return path


def test_no_governed_data_in_the_wheel(wheel, checkout):
    names = zipfile.ZipFile(wheel).namelist()
    governed = {path.name for folder in ("policies", "reference") for path in (checkout / folder).rglob("*") if path.is_file()} - {"README.md"}
    assert [name for name in names if name.rpartition("/")[2] in governed] == []
    assert [name for name in names if not name.startswith(("seg1a/", "seg1a-"))] == []
    assert {f"seg1a/runs/s{state}.ipynb" for state in range(5)} <= set(names)
    assert "seg1a/core/contracts/dataset_dictionary.layer1.1A.yaml" in names


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A new environment with the wheel; its dependencies are those of this one, so that no network is needed."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def test_the_wheel_stands_alone(installed, tmp_path):
    where = subprocess.run([installed, "-c", "import seg1a; print(seg1a.__file__)"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert str(installed.parent.parent) in where.stdout


def test_outside_a_checkout_a_pack_must_be_named(installed, tmp_path):
    done = subprocess.run([installed, "-m", "seg1a", "run"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "--pack" in done.stderr and "Traceback" not in done.stderr
