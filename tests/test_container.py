"""The container: what its image holds, and its bootstrap in an environment like the one that the image is."""

import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

STRANGER = 54321  # a user that no password file knows, as in a container that is told a number
SCRIPTS = sysconfig.get_path("scripts")


def tool(name: str) -> str:
    """A linter that the development requirements install."""
    found = shutil.which(name, path=f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}")
    assert found, f"{name} is not installed; the lock has it"
    return found


# ---------------------------------------------------------------- the files of deploy/


def test_the_dockerfile_lints(checkout):
    done = subprocess.run([tool("hadolint"), "--no-color", checkout / "deploy" / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_bootstrap_lints(checkout):
    done = subprocess.run([tool("shellcheck"), "--shell=sh", checkout / "deploy" / "bootstrap"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    assert os.access(checkout / "deploy" / "bootstrap", os.X_OK)


def instructions(dockerfile: Path) -> list[tuple[str, list[str]]]:
    """(instruction, its words) of a Dockerfile, without comments."""
    text = "\n".join(line for line in dockerfile.read_text("utf-8").splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [(words[0], words[1:]) for words in (shlex.split(line) for line in text.splitlines()) if words]


def test_the_image_runs_as_a_numbered_user_and_is_pinned(checkout):
    found = instructions(checkout / "deploy" / "Dockerfile")
    stages = "\n".join(" ".join(words) for name, words in found if name == "FROM")
    assert dict(found)["USER"] == ["10001:10001"] and dict(found)["ENTRYPOINT"] == ["[/opt/seg1a/deploy/bootstrap]"]
    assert re.fullmatch(r"PYTHON=3\.11\.\d+-slim-[a-z]+", dict((name, words[0]) for name, words in found if name == "ARG" and "PYTHON" in words[0])["ARG"])
    assert stages.splitlines()[-1] == "python:${PYTHON}" and "latest" not in stages
    for name, words in found:
        text = " ".join(words)
        assert name != "ADD" and "curl" not in text and "wget" not in text
        for command in re.findall(r"pip install [^&]*", text):
            assert "--require-hashes" in command or "--no-index" in command, command


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether a .dockerignore keeps a path out of the build; the last pattern that matches it, or a folder above it, decides."""
    parts, out = path.split("/"), False
    for pattern in patterns:
        expression = re.escape(pattern.lstrip("!").strip("/")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(expression, "/".join(parts[:n])) for n in range(1, len(parts) + 1)):
            out = not pattern.startswith("!")
    return out


def image_files(checkout: Path) -> set[str]:
    """Every file of the checkout that a COPY of the Dockerfile takes, in any stage."""
    lines = (checkout / "deploy" / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    taken = set()
    for name, words in instructions(checkout / "deploy" / "Dockerfile"):
        if name == "COPY" and not any(word.startswith("--from=") for word in words):
            for source in (checkout / word.rstrip("/") for word in words[:-1] if not word.startswith("--")):
                below = source.rglob("*") if source.is_dir() else [source]
                found = {path.relative_to(checkout).as_posix() for path in below if path.is_file()}
                found = {path for path in found if not path.startswith(".git/") and not ignored(path, patterns)}
                assert found, f"COPY {source} copies nothing"
                taken |= found
    return taken


def test_no_governed_data_in_the_image(checkout):
    taken = image_files(checkout)
    assert {"deploy/bootstrap", "deploy/engine/cli/segment1a.py", "requirements/lock.txt", "seg1a/core/samplers.py", "seg1a/runs/s0.ipynb"} <= taken
    assert not [path for path in taken if path.startswith(("policies/", "reference/", "tests/", "runs/", "nbs/"))]
    governed = {hashlib.sha256(path.read_bytes()).digest() for folder in ("policies", "reference") for path in (checkout / folder).rglob("*") if path.is_file()}
    assert len(governed) > 10 and not [path for path in taken if hashlib.sha256((checkout / path).read_bytes()).digest() in governed]


def test_governed_data_would_be_noticed(checkout):
    lines = ["*", "!seg1a", "!policies", "**/*.pyc"]
    assert ignored("reference/a.csv", lines) and ignored("seg1a/x/a.pyc", lines)
    assert not ignored("policies/a.yaml", lines) and not ignored("seg1a/x/a.py", lines)


def test_governed_data_are_mounted_in_one_step_and_copied_in_none(checkout):
    stages, current = {}, ""
    for name, words in instructions(checkout / "deploy" / "Dockerfile"):
        if name == "FROM":
            current = words[-1]
        stages.setdefault(current, []).append(" ".join([name, *words]))
    mounted = {stage for stage, lines in stages.items() if any("from=governed" in line for line in lines)}
    assert mounted == {"warm"} and not [line for lines in stages.values() for line in lines if line.startswith("COPY") and "governed" in line]
    assert [line for line in stages["python:${PYTHON}"] if "COPY --from=" in line] == ["COPY --from=warm /opt/seg1a /opt/seg1a"]


def test_the_runtime_part_of_the_lock_is_closed_and_lean(checkout):
    """Whatever an installed package of the reduced lock requires here is in it too; the tools of development are not."""
    done = subprocess.run([sys.executable, checkout / "deploy" / "runtime_lock.py"], capture_output=True, text=True, check=True)
    whole = (checkout / "requirements" / "lock.txt").read_text("utf-8")
    names = set(re.findall(r"^([a-z0-9][a-z0-9._-]*)==", done.stdout, re.MULTILINE))
    assert {"numpy", "numba", "llvmlite", "pyarrow", "papermill", "ipykernel"} <= names and not {"nbdev", "pytest", "hypothesis", "setuptools"} & names
    assert all(line in whole for line in done.stdout.splitlines()) and done.stdout.count("--hash=sha256:") > len(names)
    for name in names:
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        plain = [re.match(r"[A-Za-z0-9._-]+", text)[0] for text in requires if ";" not in text]
        assert {re.sub(r"[-_.]+", "-", text).lower() for text in plain} <= names, name


def test_a_package_that_the_lock_lacks_is_told(checkout):
    done = subprocess.run([sys.executable, checkout / "deploy" / "runtime_lock.py", "--only", "no-such-thing"], capture_output=True, text=True)
    assert done.returncode == 1 and "no-such-thing" in done.stderr and done.stdout == ""


# ---------------------------------------------------------------- the bootstrap


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that other users can reach, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="seg1a-c-"))
    folder.chmod(0o755)
    yield folder
    subprocess.run(["chmod", "-R", "u+w", folder])
    shutil.rmtree(folder)


def carry_kernels(checkout: Path, site: Path, kernels: Path) -> None:
    """Kernels that this machine has compiled of the same sources, laid where numba looks for them; what is missing or does not fit it compiles anew."""
    from numba.core.caching import UserProvidedCacheLocator

    from seg1a.core.cache import cache_root
    from seg1a.core.kernels import kernel_digest

    place_of = UserProvidedCacheLocator.get_suitable_cache_subpath
    for path in (path for path in (checkout / "seg1a").rglob("*.py") if "@kernel" in path.read_text("utf-8")):
        digest = kernel_digest(path)
        came = cache_root() / "kernels" / digest / place_of(str(path))
        if came.is_dir():
            shutil.copytree(came, kernels / "kernels" / digest / place_of(str(site / path.relative_to(checkout))))


@pytest.fixture(scope="module")
def image(checkout, small_pack, place) -> Path:
    """What the Dockerfile makes in /opt/seg1a, made in the same steps: environment, whole times, warm kernels, bootstrap; read-only.

    The environment's dependencies are those of this one, so that no network is needed. Kernels that exist need not be compiled again, but only those stay
    that the warming run asked for: without those that are part of others, which only a compilation leaves."""
    image, dist = place / "image", place / "dist"
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", dist, checkout]
    subprocess.run(list(map(str, build)), check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", image / "venv"], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(image / "venv"), "platbase": str(image / "venv")}))
    (wheel,) = dist.glob("*.whl")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "--target", site, wheel], check=True)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for path in image.rglob("*"):
        os.utime(path, (1_767_225_600, 1_767_225_600), follow_symlinks=False)
    carry_kernels(checkout, site, image / "kernels")
    warm = ["run", "--pack", small_pack, "--output-dir", place / "warm", "--seed", "1", "--s3-priors", "--s3-integerisation", "--s3-sequencing", "--no-notebooks", "--quiet"]
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # kernels belong to the place of their source
    environment = inherited | {"NUMBA_CACHE_DIR": str(image / "kernels"), "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_DEBUG_CACHE": "1"}
    done = subprocess.run([image / "venv/bin/python", "-m", "seg1a", *warm], check=True, cwd=place, env=environment, capture_output=True, text=True)
    asked = set(re.findall(r"data (?:loaded from|saved to) '(.+?\.nbc)'", done.stdout))
    for path in (image / "kernels").rglob("*.nbc"):
        if str(path) not in asked:
            path.unlink()
    (image / "deploy").mkdir()
    shutil.copy(checkout / "deploy" / "bootstrap", image / "deploy")
    shutil.copytree(checkout / "deploy" / "engine", image / "deploy" / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["chmod", "-R", "a-w,a+rX", image], check=True)
    return image


def contents(folder: Path) -> dict[str, tuple]:
    """What would show that somebody wrote into a folder."""
    return {path.relative_to(folder).as_posix(): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in sorted(folder.rglob("*"))}


def stranger() -> list[str]:
    """The command that runs what follows as another user, without a capability; where our interpreter lies in a folder that only root may enter, with the one
    to search and read, which allows no writing."""
    command = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", "--no-new-privs"]
    bare, reading = ["--bounding-set=-all", "--inh-caps=-all"], ["--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]
    done = subprocess.run([*command, *bare, sys.executable, "-c", "import json, sys; print(sys.base_prefix)"], capture_output=True, text=True)
    return [*command, *(bare if done.stdout.strip() == sys.base_prefix else reading)]


def start(image: Path, work: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """The bootstrap under an empty environment; as root, as another user and with a root file system that is read-only where that can be had."""
    (work / "tmp").mkdir(parents=True, exist_ok=True)
    settings = {"PATH": f"{image}/venv/bin:/usr/bin:/bin", "TMPDIR": f"{work}/tmp", "NUMBA_CACHE_DIR": f"{image}/kernels", **environment}
    command = ["env", "-i", *(f"{name}={value}" for name, value in settings.items()), str(image / "deploy" / "bootstrap"), *arguments]
    if os.getuid() == 0:
        subprocess.run(["chown", "-R", f"{STRANGER}:{STRANGER}", work], check=True)
        command = [*stranger(), *command]
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0:
            mounts = f"mount --make-rprivate / && mount --bind {work} {work} && mount -o remount,ro,bind / && ! touch {image}/x 2>/dev/null && exec {shlex.join(command)}"
            command = ["unshare", "--mount", "sh", "-c", mounts]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", stdin=subprocess.DEVNULL, timeout=1800)


def test_the_bootstrap_stages_and_runs(image, small_pack, place):
    work, store = place / "work", place / "store" / "test"
    work.mkdir()
    shutil.copytree(small_pack, store)
    subprocess.run(["chmod", "-R", "a+rX", store.parent], check=True)
    before = contents(image)
    done = start(image, work, "--workers", "2", SEG1A_PACK_URI=str(store), SEG1A_PACK_VERSION="test", SEG1A_PACK_DEST=f"{work}/packs", SEG1A_OUTPUT_DIR=f"{work}/runs",
                 SEG1A_SEED=str((1 << 63) + 7), SEG1A_START_TIME_NS="1700000000000000000", SEG1A_GIT_COMMIT="c" * 40, SEG1A_S3_PRIORS="yes", SEG1A_S3_INTEGERISATION="1", SEG1A_S3_SEQUENCING="no",
                 SEG1A_RESULT_JSON=f"{work}/result.json", AWS_SECRET_ACCESS_KEY="not-for-the-engine")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith(f"PASS {work}/runs/") and f"STAGED {work}/packs/test" in done.stderr.splitlines()
    came, used = ({path.relative_to(folder).as_posix() for path in folder.rglob("*.nbc")} for folder in (image / "kernels", *work.glob("tmp/seg1a.*/kernels")))
    assert len(came) > 30 and used == came, "a kernel was compiled that should have come with the image"
    assert contents(image) == before, "something was written beside the code"
    root = Path(done.stdout.splitlines()[-1].removeprefix("PASS "))
    stamp = json.loads(next(root.glob("validation_bundle/*/execution_stamp.json")).read_bytes())
    assert (stamp["seed"], stamp["start_ns"], stamp["pack_version"], stamp["cli_flags"]["git_commit"]) == ((1 << 63) + 7, 1_700_000_000_000_000_000, "test", "c" * 40)
    assert [stamp["cli_flags"][f"s3_{lane}"] for lane in ("priors", "integerisation", "sequencing")] == [True, True, False]
    summary = json.loads((work / "result.json").read_bytes())
    assert summary["gate"]["status"] == "PASS" and summary["run"]["flags"][:2] == ["run", "--pack"] and summary["run"]["flags"][-2:] == ["--workers", "2"]
    owners = {path.lstat().st_uid for path in root.rglob("*")}
    assert owners == {STRANGER if os.getuid() == 0 else os.getuid()}
    assert not any(b"not-for-the-engine" in path.read_bytes() for path in root.rglob("*") if path.is_file())


def test_a_damaged_pack_stops_the_bootstrap_before_the_engine(image, small_pack, place):
    work, store = place / "work-damaged", place / "damaged"
    shutil.copytree(small_pack, store)
    subprocess.run(["chmod", "-R", "u+w,a+rX", store], check=True)
    policy = next(store.rglob("validation_policy.yaml"))
    policy.write_bytes(policy.read_bytes() + b"\n")
    done = start(image, work, SEG1A_PACK_URI=str(store), SEG1A_PACK_DEST=f"{work}/packs", SEG1A_OUTPUT_DIR=f"{work}/runs", SEG1A_SEED="1")
    assert done.returncode == 2 and done.stdout.splitlines()[-1].startswith("FAIL E_PACK_DIGEST"), done.stdout + done.stderr
    assert not (work / "runs").exists()


@pytest.mark.parametrize("settings, word", [
    ({}, "SEG1A_PACK_URI"), ({"SEG1A_PACK_URI": "/nowhere"}, "SEG1A_SEED"), ({"SEG1A_PACK_URI": "/nowhere", "SEG1A_SEED": "1", "SEG1A_PYTHON": "/no/python"}, "SEG1A_PYTHON"),
])
def test_what_is_missing_is_told_before_anything_is_done(checkout, tmp_path, settings, word):
    done = subprocess.run([checkout / "deploy" / "bootstrap"], capture_output=True, text=True, env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)} | settings)
    assert done.returncode == 2 and word in done.stderr and done.stdout == "" and not any(tmp_path.iterdir())


def test_a_switch_says_yes_or_no(checkout, small_pack, tmp_path):
    settings = {"PATH": os.environ["PATH"], "PYTHONPATH": str(checkout), "TMPDIR": str(tmp_path), "SEG1A_PYTHON": sys.executable, "SEG1A_PACK_URI": str(small_pack),
                "SEG1A_PACK_DEST": str(tmp_path / "packs"), "SEG1A_SEED": "1", "SEG1A_S3_PRIORS": "maybe"}
    done = subprocess.run([checkout / "deploy" / "bootstrap"], capture_output=True, text=True, env=settings)
    assert done.returncode == 2 and "SEG1A_S3_PRIORS is 'maybe'" in done.stderr


def test_a_store_that_is_not_there_ends_with_the_status_of_staging(checkout, tmp_path):
    settings = {"PATH": os.environ["PATH"], "PYTHONPATH": str(checkout), "TMPDIR": str(tmp_path), "SEG1A_PYTHON": sys.executable, "SEG1A_PACK_URI": str(tmp_path / "nowhere"),
                "SEG1A_PACK_DEST": str(tmp_path / "packs"), "SEG1A_SEED": "1"}
    done = subprocess.run([checkout / "deploy" / "bootstrap"], capture_output=True, text=True, env=settings)
    assert done.returncode == 2 and done.stdout.splitlines()[-1].startswith("FAIL E_"), done.stderr


# ---------------------------------------------------------------- the alias


def test_the_documented_command(checkout, tmp_path):
    settings = os.environ | {"PYTHONPATH": f"{checkout / 'deploy'}{os.pathsep}{checkout}"}
    command = [sys.executable, "-m", "engine.cli.segment1a"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, env=settings, cwd=tmp_path)
    ours = subprocess.run([sys.executable, "-m", "seg1a", "run", "--help"], capture_output=True, text=True, env=settings, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == ours.stdout and "--seed" in done.stdout
    done = subprocess.run([*command, "--seed", "-1"], capture_output=True, text=True, env=settings, cwd=tmp_path)
    assert done.returncode == 2 and "E_USAGE" in done.stderr and not any(tmp_path.iterdir())
