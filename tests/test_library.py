"""The public surface of `import seg1a`, and what the whole package owes a reader: docstrings and typed parameters."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest

import seg1a as library
from seg1a.core.encoding import canonical_line, read_yaml
from seg1a.core.errors import Seg1aError, UsageError

PACKAGE = Path(library.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".") for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py", "_modidx.py"))
COMPILED = ("kernel", "inlined", "intrinsic")  # numba infers the types of these; their docstrings say them


# ---- the surface --------------------------------------------------------------------------------------------------------


def test_the_names_and_where_they_live():
    assert library.__all__ == sorted(library.__all__) and set(library._HOMES) == set(library.__all__)
    for name in library.__all__:
        assert getattr(library, name) is getattr(importlib.import_module(library._HOMES[name]), name)
        assert name in dir(library) and inspect.getdoc(getattr(library, name))
    with pytest.raises(AttributeError, match="nonsense"):
        library.nonsense


def test_type_checkers_are_told_the_same():
    """What stands under TYPE_CHECKING is, name by name, what is imported when it is asked for."""
    (block,) = [node for node in ast.parse((PACKAGE / "__init__.py").read_text("utf-8")).body if isinstance(node, ast.If)]
    told = {alias.name: node.module for node in block.body for alias in node.names}
    assert told == library._HOMES and (PACKAGE / "py.typed").is_file() and library.TYPE_CHECKING is False


@pytest.mark.parametrize("name", [name for name in library.__all__ if inspect.isfunction(getattr(library, name))])
def test_functions_are_typed_throughout(name):
    function = getattr(library, name)
    hints = typing.get_type_hints(function)
    assert set(inspect.signature(function).parameters) | {"return"} == set(hints) and hints["return"] is not type(None)


def test_nothing_is_imported_before_it_is_used():
    program = """
import json, sys
before = set(sys.modules)
import seg1a
first = sorted(set(sys.modules) - before)
seg1a.Seg1aError
print(json.dumps([first, "numpy" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [["seg1a"], False]


# ---- run ----------------------------------------------------------------------------------------------------------------


def test_a_run_is_that_of_the_command_line(seg1a, small_pack, tmp_path):
    from run_support import run_root, sealed_files

    text = next(small_pack.rglob("policy.s4.hyperparams.yaml")).read_bytes().replace(b"theta0: -1.0", b"theta0: -0.9")
    (tmp_path / "mine.yaml").write_bytes(text)
    result = library.run(small_pack, tmp_path / "library", seed=3, parameters={"policy.s4.hyperparams.yaml": tmp_path / "mine.yaml"}, start_time_ns=1_700_000_000_000_000_000, git_commit="ab" * 20)
    flags = ("--seed", "3", "--start-time-ns", "1700000000000000000", "--git-commit", "ab" * 20, "--param", f"policy.s4.hyperparams.yaml={tmp_path / 'mine.yaml'}")
    root = run_root(seg1a("run", "--pack", small_pack, "--output-dir", tmp_path / "command", "--no-notebooks", *flags))
    assert sealed_files(result.root) == sealed_files(root) and result.passed and library.diff(result, root).equal
    with library.open_run(result) as run:
        assert run.identity["seed"] == 3 and len(run.frame("rng_event_hurdle_bernoulli")) == 400
    assert library.verify(result).passed


@pytest.mark.parametrize("wrong, code", [({"seed": -1}, "E_USAGE"), ({"seed": 2**64}, "E_USAGE"), ({"seed": np.float64(1)}, "E_USAGE"), ({"sequencing": True}, "ERR_S3_PRECONDITION"),
                                         ({"parameters": {"policy.s4.hyperparams.yaml": "none"}}, "E_USAGE"), ({"parameters": {"x.yaml": b"a: 1"}}, "E_PACK_SOURCE"), ({"git_commit": "x"}, "E_GIT_BYTES")])
def test_wrong_arguments_leave_no_run(small_pack, tmp_path, wrong, code):
    with pytest.raises(Seg1aError) as caught:
        library.run(small_pack, tmp_path / "runs", **wrong)
    assert caught.value.code == code and not list(tmp_path.glob("runs/parameter_hash=*/run_id=*/validation_bundle/*/_passed.flag"))


def test_a_failed_run_raises_or_is_looked_at(small_pack, tmp_path):
    documents = {name: read_yaml(next(small_pack.rglob(name)).read_bytes(), name) for name in ("hurdle_coefficients.yaml", "nb_dispersion_coefficients.yaml")}
    documents["hurdle_coefficients.yaml"]["beta_mu"][0] -= 2.0  # small counts: rejections, and one attempt is all that there is
    documents["nb_dispersion_coefficients.yaml"]["s2_max_attempts"] = 1
    parameters = {name: canonical_line(document) for name, document in documents.items()}
    result = library.run(small_pack, tmp_path, parameters=parameters, check=False)
    assert result.status == "FAIL" and result.failure[:2] == ("S2", "ERR_S2_ATTEMPT_LIMIT") and not library.verify(result).passed
    with pytest.raises(Seg1aError) as caught:
        result.require()
    assert caught.value.code == "ERR_S2_ATTEMPT_LIMIT" and caught.value.detail["root"] == str(result.root)
    with pytest.raises(library.NotPassed):
        library.open_run(result)
    with pytest.raises(UsageError):
        library.verify(tmp_path)


# ---- draws --------------------------------------------------------------------------------------------------------------


def test_draws_are_those_of_the_logs(passed_run):
    with library.open_run(passed_run) as run:
        hash, seed = run.identity["parameter_hash"], run.identity["seed"]
        gamma, poisson = (run.events(family).to_pylist() for family in ("gamma_component", "poisson_component"))
    for row in gamma[:20]:
        if (row["rng_counter_before_hi"], row["rng_counter_before_lo"]) == (stream := library.substream(seed, hash, "gamma_nb", row["merchant_id"])).position:
            assert library.gamma_draws(stream, row["alpha"], 1)[0] == row["gamma_value"] and stream.position == (row["rng_counter_after_hi"], row["rng_counter_after_lo"])
    for row in [row for row in poisson if row["context"] == "nb" and row["attempt"] == 1][:20]:
        assert library.poisson_draws(library.substream(seed, hash, "poisson_nb", row["merchant_id"]), row["lambda"], 1).tolist() == [row["k"]]


def test_many_draws_are_many_single_ones():
    key = (2**64 - 1, "0f" * 32, "a label", 2**63 - 1)
    for alpha in (1e-3, 0.5, 1.0, 17.0, 1e6):
        slow, fast = library.substream(*key), library.substream(*key)
        assert library.gamma_draws(fast, alpha, 9).tolist() == [slow.gamma(alpha) for _ in range(9)] and fast.position == slow.position
    for lam in (1e-6, 0.5, 9.999, 10.0, 1e4, 1e17):  # the last is beyond what the kernels take: all by the slow path
        slow, fast = library.substream(*key), library.substream(*key)
        assert library.poisson_draws(fast, lam, 9).tolist() == [slow.poisson(lam) for _ in range(9)] and (fast.blocks, fast.draws) == (slow.blocks, slow.draws)


# ---- docstrings and types of the whole package --------------------------------------------------------------------------


def public_definitions(module: str):
    """(name, node, decorators, owner) of public functions, classes and methods of a module."""
    tree = ast.parse((PACKAGE.parent / (module.replace(".", "/") + ".py")).read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node, [ast.unparse(d) for d in node.decorator_list], None
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from ((f"{node.name}.{inner.name}", inner, [ast.unparse(d) for d in inner.decorator_list], node.name)
                        for inner in node.body if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"))


def undocumented(module: str) -> list[str]:
    """Public names without a docstring; that of the method which is overridden counts."""
    missing = []
    for name, node, _, owner in public_definitions(module):
        inherited = owner and inspect.getdoc(getattr(getattr(importlib.import_module(module), owner), node.name))
        if not (ast.get_docstring(node) or inherited):
            missing.append(name)
    return missing


def untyped(module: str) -> list[str]:
    """Public functions with a parameter that has no annotation; compiled kernels are typed by numba."""
    missing = []
    for name, node, decorators, _ in public_definitions(module):
        if isinstance(node, ast.FunctionDef) and not any(d.split("(")[0] in COMPILED for d in decorators):
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            missing += [f"{name}({p.arg})" for p in parameters if p.annotation is None and p.arg not in ("self", "cls")]
    return missing


def test_every_public_name_is_documented_and_typed():
    found = {module: problems for module in MODULES if (problems := undocumented(module) + untyped(module))}
    assert not found, "\n".join(f"{module}: {', '.join(problems)}" for module, problems in found.items())


def test_every_module_says_what_it_is_and_lists_its_names():
    for module in MODULES:
        tree = ast.parse((PACKAGE.parent / (module.replace(".", "/") + ".py")).read_text("utf-8"))
        assert ast.get_docstring(tree), module
        (listed,) = [node for node in tree.body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"]
        defined = {name for name, _, _, owner in public_definitions(module) if owner is None}
        assert defined <= set(ast.literal_eval(listed.value)), module


SHAPED = re.compile(r"\[[^\]]*\]|u?int\d+|float\d+|\bbool\b|\bcolumn|\bstructured|as above")


def test_arrays_have_shapes_in_their_docstrings():
    """Whoever returns NumPy arrays says which: a shape in brackets, a type, or which columns."""
    silent = []
    for module in MODULES:
        for name, node, _, _ in public_definitions(module):
            if isinstance(node, ast.FunctionDef) and node.returns is not None and "np.ndarray" in ast.unparse(node.returns) and not SHAPED.search(ast.get_docstring(node) or ""):
                silent.append(f"{module}.{name}")
    assert not silent, silent


def test_the_check_would_notice(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "seg1a")
    (tmp_path / "seg1a").mkdir()
    (tmp_path / "seg1a" / "x.py").write_text("def bare(a, b: int): pass\n\n@kernel\ndef compiled(a):\n    'doc'\n\nclass Kind:\n    'doc'\n    def method(self, c): 'doc'\n    def silent(self): pass\n", "utf-8")
    monkeypatch.setattr(importlib, "import_module", lambda name: type("x", (), {"Kind": type("Kind", (), {"silent": lambda self: None, "method": None})}))
    assert undocumented("seg1a.x") == ["bare", "Kind.silent"] and untyped("seg1a.x") == ["bare(a)", "Kind.method(c)"]
