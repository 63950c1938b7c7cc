"""What a code means, for a person who has only the code; the page of codes; the table against the sources."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from seg1a.core import errors
from seg1a.core.codes import code_modules, codes_in_source, codes_markdown, describe_code, is_reserved, nearest_codes
from seg1a.core.errors import FAILURE_CLASSES, Seg1aError, UsageError, code_table
from seg1a.core.lineage import FileDigest, manifest_fingerprint, parameter_hash
from seg1a.core.run import Lineage
from seg1a.inputs.manifest import PackManifest
from seg1a.states import s0_foundations, s1_hurdle, s2_corridors, s2_validate

PACKAGE = Path(errors.__file__).parents[1]


@pytest.mark.parametrize("code", code_table())
def test_a_description_tells_all_that_the_table_and_the_sources_know(code):
    record, text = code_table()[code], describe_code(code)
    assert text.startswith(f"{code}: class {record.failure_class} ({FAILURE_CLASSES[record.failure_class]}), failure {record.failure_code}\n")
    for fact in (record.meaning, record.remedy, record.scope, f"exit status: {record.exit_status}", record.source, *code_modules()[code]):
        assert fact in text


def test_a_module_that_is_named_holds_the_code_and_no_other_module_does():
    for path in PACKAGE.rglob("[!_]*.py"):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        assert {code for code, modules in code_modules().items() if module in modules} == codes_in_source(path.read_text("utf-8")), module


def test_every_code_stands_in_the_sources_unless_it_is_reserved():
    assert {code for code, modules in code_modules().items() if not modules} == {code for code, record in code_table().items() if is_reserved(record)}


def test_composed_codes_take_their_members_from_the_same_module():
    assert codes_in_source('digest(path, "PARAM")\nraise Seg1aError(f"E_{kind}_RACE", "x")') == {"E_PARAM_RACE"}
    assert codes_in_source('raise Seg1aError(f"E_{kind}_RACE", "x")') == set()


@pytest.mark.parametrize("typed, nearest", [("E_GDP_MISING", "E_GDP_MISSING"), ("e_pack_digest", "E_PACK_DIGEST"), ("corridor_breach", "corridor_breach:p99"), ("E-YAML-PARSE", "E_YAML_PARSE")])
def test_an_unknown_code_is_refused_with_the_nearest(typed, nearest):
    assert nearest in nearest_codes(typed)
    with pytest.raises(UsageError, match=f"E_EXPLAIN_CODE.*{nearest}") as refusal:
        describe_code(typed)
    assert refusal.value.exit_status == 2 and nearest in refusal.value.detail["nearest"]


@pytest.mark.parametrize("typed", ["", " ", "\0", "é" * 100, "E_" * 500_000, "\ud800"])
def test_no_text_is_too_odd_to_be_refused(typed):
    with pytest.raises(UsageError, match="E_EXPLAIN_CODE") as refusal:
        describe_code(typed)
    assert len(str(refusal.value)) < 400
    str(refusal.value).encode("utf-8")


def test_the_page_has_every_code_once_in_the_table_of_its_class():
    sections = dict(zip(FAILURE_CLASSES, re.split(r"^## F\d+: .*$", codes_markdown(), flags=re.M)[1:], strict=True))
    for code, record in code_table().items():
        assert [failure_class for failure_class, text in sections.items() for line in text.splitlines() if line.startswith(f"| `{code}` |")] == [record.failure_class]
    for line in codes_markdown().splitlines():
        assert not line.startswith("| `") or len(re.split(r"(?<!\\)\|", line)) == 8, line


# ---- every code is shown being raised --------------------------------------------------------------------------------------

CHECKOUT = PACKAGE.parent


def _expectations() -> str:
    """All that `make test` runs: the tests, their vectors, and the cells of the notebooks that are no part of the package."""
    files = [path.read_text("utf-8") for path in (CHECKOUT / "tests").rglob("*") if path.suffix in (".py", ".json")]
    for path in (CHECKOUT / "nbs").rglob("*.ipynb"):
        cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
        files += ["".join(cell["source"]) for cell in cells if not "".join(cell["source"]).lstrip().startswith("#| export")]
    return "\n".join(files)


def test_every_code_is_expected_by_a_test_or_an_example():
    words = set(re.findall(r"[\w:-]+", _expectations()))  # what a code is, and nothing shorter
    assert all(re.fullmatch(r"[\w:-]+", code) for code in code_table())
    unshown = [code for code, record in code_table().items() if not is_reserved(record) and code not in words]
    assert not unshown, f"no test expects {', '.join(unshown)}"


def test_every_code_that_a_test_expects_is_in_the_table():
    shaped = re.compile(r"""["'](E_[A-Z]{2,}_[A-Z0-9_]*[A-Z0-9]|ERR_S[0-9]_[A-Z0-9_]*[A-Z0-9](?::\w+)?)["']""")
    known = {*code_table(), *(code.partition(":")[0] for code in code_table())}
    strangers = set(shaped.findall("".join(path.read_text("utf-8") for path in (CHECKOUT / "tests").rglob("*.py")))) - known
    assert {code for code in strangers if not code.startswith(("E_NO_", "E_GDP_MISING"))} == set()


DIGEST = FileDigest("a.yaml", Path("a.yaml"), 1, "0" * 64)
HASHES = {"PARAM": parameter_hash, "ARTIFACT": lambda digests: manifest_fingerprint(digests, bytes(32), "0" * 64)}


@pytest.mark.parametrize(("digests", "codes"), [
    ([], ("E_PARAM_EMPTY", "E_ARTIFACT_EMPTY")), ([DIGEST, DIGEST], ("E_PARAM_DUP_BASENAME", "E_ARTIFACT_DUP_BASENAME")),
    ([replace(DIGEST, name="\u03bb.yaml")], ("E_PARAM_NONASCII_NAME", "E_ARTIFACT_NONASCII_NAME")),
])
def test_files_that_no_hash_is_made_of(digests, codes):
    for make, code in zip(HASHES.values(), codes):
        with pytest.raises(Seg1aError) as refusal:
            make(digests)
        assert refusal.value.code == code


def test_a_manifest_that_lacks_what_s0_needs():
    manifest = PackManifest(Path("."), "x", "x", "0" * 64, None, ())
    for call, code in ((lambda: s0_foundations._yaml(manifest, "hurdle_coefficients.yaml"), "E_PARAM_MISSING"), (lambda: s0_foundations._path(manifest, "gdp.parquet"), "E_REF_MISSING"),
                       (lambda: s0_foundations._check_dependencies({"gdp.parquet"}), "E_ARTIFACT_DEP_MISSING")):
        with pytest.raises(Seg1aError) as refusal:
            call()
        assert refusal.value.code == code


def test_a_dictionary_in_which_the_hurdle_gates_nothing(monkeypatch):
    monkeypatch.setattr(s1_hurdle.contracts().__class__, "gated_streams", lambda self, gate: [])
    with pytest.raises(Seg1aError) as refusal:
        s1_hurdle.hurdle_catalogue(Lineage(1, "0" * 64, "0" * 64, "0" * 32, 0), 0, np.array([], np.int64))
    assert refusal.value.code == "gated_streams_empty"


def test_merchants_whose_acceptance_is_no_probability_are_a_warning():
    policy = s2_corridors.corridor_policy({"corridors": {"rho_reject_max": 0.5, "p99_max": 9}, "cusum": {"reference_k": 0.5, "threshold_h": 50.0}})
    mu = np.array([3.0, 0.0])
    corridors = s2_corridors.evaluate_corridors(policy, np.array([1, 2]), mu, np.array([2.0, 2.0]), np.array([0, 0]))
    report = s2_validate.NbReport("S2", corridors=corridors, inputs=SimpleNamespace(policy=policy))
    s2_validate._add_corridors(report)
    assert report.passed and [warning.partition(": ")[0] for warning in report.warnings] == ["ERR_S2_CORRIDOR_ALPHA_INVALID"]
