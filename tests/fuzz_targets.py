"""What is fuzzed beside the event rows: the readers of JSON and YAML, the manifest of a pack, predicates, and the loaders of all governed documents.

Every target has a reference that knows nothing of the code under test: orjson for JSON, the library's plainest loader for YAML, the untouched pack for the manifest,
Python's own expressions for predicates, JSON-Schemas for documents. What the code accepts, the reference must accept, and read alike.
"""

import json
import re
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import orjson
from fuzz_support import Target, damaged, damaged_document
from jsonschema import Draft202012Validator
from jsonschema.validators import extend
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from seg1a.core.encoding import plain_scalar, read_json, read_yaml
from seg1a.core.errors import Seg1aError, code_table
from seg1a.core.numerics import check_math_profile, check_numeric_policy, profile_checksum
from seg1a.inputs.manifest import MANIFEST, verify_pack
from seg1a.inputs.pack import build_pack
from seg1a.states.foresight import check_validation_policy
from seg1a.states.s0_coefficients import dispersion_coefficients, hurdle_coefficients
from seg1a.states.s0_eligibility import eligibility_policy
from seg1a.states.s3_ladder import load_ladder
from seg1a.states.s3_policies import load_base_weights, load_bounds, load_thresholds
from seg1a.states.s3_predicates import ListColumn, Scope, country_code, parse_predicate
from seg1a.states.s4_policy import load_policy

CHECKOUT = Path(__file__).resolve().parent.parent
POLICIES = CHECKOUT / "policies"
NO_NUMBER = re.compile(r"\bNaN\b|-?\bInfinity\b")


def refused(error: Seg1aError, *codes: str) -> bool:
    """A refusal as it should be: one of these codes, if any are given, and a message that can be printed. Always False: not accepted."""
    assert not codes or error.code in codes, error.code
    assert error.code in code_table() and 0 < len(error.message) < 1000 and "\n" not in error.message, error.message
    error.message.encode("utf-8")
    return False


# ---------------------------------------------------------------- JSON

JSON_SEEDS = [(POLICIES / name).read_bytes() for name in ("numeric_policy.json", "math_profile_manifest.json")] + [
    b'{"a":[1,-0,1.5e-7,"x\\u00e9\\ud83d\\ude00",true,false,null],"b":{"c":{}}}', b'[18446744073709551615,-9223372036854775808,1e308,"\\n"]']


def make_json(rng) -> bytes:
    return damaged(JSON_SEEDS[int(rng.integers(len(JSON_SEEDS)))][:1500 if rng.random() < 0.5 else None] or b"{}", rng)


def examine_json(data: bytes) -> bool:
    try:
        value = read_json(data, "x.json")
    except Seg1aError as error:
        return refused(error, "E_JSON_PARSE")
    text = data.decode("utf-8")
    assert not text.startswith("\ufeff") and not NO_NUMBER.search(re.sub(r'"(?:[^"\\]|\\.)*"', "", text)), "accepted what is no JSON"
    if not re.search(r"[0-9]{19}", text):  # orjson keeps 64 bits
        assert orjson.loads(data) == value, "another value"
        pairs = json.loads(text, object_pairs_hook=lambda pairs: pairs)
        assert _members(pairs) == _members_of(value), "a duplicate key"
    return True


def _members(pairs: object) -> int:
    """Members of all objects, duplicates counted; objects are lists of pairs."""
    if isinstance(pairs, list):
        return sum(1 + _members(inner[1]) if isinstance(inner, tuple) else _members(inner) for inner in pairs)
    return 0


def _members_of(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (len(value) if isinstance(value, dict) else 0) + sum(map(_members_of, inner))


# ---------------------------------------------------------------- YAML

def _bare(name: str) -> bytes:
    """A policy without its comments: they only cost time."""
    return "".join(line + "\n" for line in (re.sub(r"\s*#.*", "", line) for line in (POLICIES / name).read_text("utf-8").splitlines()) if line).encode()


YAML_SEEDS = [_bare(name) for name in ("policy.s3.thresholds.yaml", "policy.s3.bounds.yaml", "policy.s4.hyperparams.yaml")] + [
    b'a: "x\\u00e9"\nb: [1, 2.5e-3, NO, ~, 0x1F]\nc: {d: \'e\', 7: .inf}\n', b"- a\n- b: |\n    text\n  c: >-\n    folded\n    text\n", b'? a\n: b\n"c": !!str d\n&x e: *x\n---\n', b"%YAML 1.2\n---\na: 1_000\nb: 0o17\n...\n"]


def make_yaml(rng) -> bytes:
    return damaged(YAML_SEEDS[int(rng.integers(len(YAML_SEEDS)))], rng)


def examine_yaml(data: bytes) -> bool:
    try:
        value = read_yaml(data, "x.yaml")
    except Seg1aError as error:
        return refused(error, "E_YAML_PARSE", "E_YAML_ROOT")
    try:
        texts = YAML(typ="base", pure=True).load(data.decode("utf-8"))
    except YAMLError as error:
        raise AssertionError(f"accepted what the library refuses: {error}") from error
    _same_yaml(value, texts)
    return True


def _same_yaml(value: object, text: object) -> None:
    """A value is what the core schema makes of the library's texts."""
    if isinstance(value, dict):
        assert isinstance(text, dict) and len(text) == len(value), "another mapping"
        for (key, inner), (name, inner_text) in zip(value.items(), text.items()):
            _same_yaml(key, name)
            _same_yaml(inner, inner_text)
    elif isinstance(value, list):
        assert isinstance(text, list) and len(text) == len(value), "another list"
        for inner, inner_text in zip(value, text):
            _same_yaml(inner, inner_text)
    elif isinstance(value, str):
        assert value == text or value.encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass"), "another text"
    else:
        assert repr(plain_scalar(text or "")) == repr(value), "another scalar"


# ---------------------------------------------------------------- the manifest

FREE = {"pack_version", "created_utc", "version", "licence"}  # what a builder may say as he likes


class Manifests:
    """A pack whose manifest is damaged, and verified each time."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.pack = build_pack(Path(self.folder.name) / "pack", 20, CHECKOUT / "reference", POLICIES, "fuzz")
        self.good = (self.pack / MANIFEST).read_bytes()

    def make(self, rng) -> bytes:
        if rng.random() < 0.5:
            return damaged(self.good, rng)
        return _yaml_text(damaged_document(json.loads(self.good), rng)).encode("utf-8", "surrogatepass")

    def examine(self, data: bytes) -> bool:
        (self.pack / MANIFEST).write_bytes(data)
        try:
            verify_pack(self.pack)
        except Seg1aError as error:
            return refused(error, *(code for code in code_table() if code.startswith("E_PACK_")))
        good, found = json.loads(self.good), orjson.loads(data)
        for entry, other in zip([good, *good["artefacts"]], [found, *found["artefacts"]], strict=True):
            changed = {key for key in entry.keys() | other.keys() if key != "artefacts" and entry.get(key) != other.get(key)}
            assert changed <= FREE | {"parameter_hash"}, f"accepted other values of {changed}"
        return True


def manifests() -> Target:
    world = Manifests()
    return Target("manifest", world.make, world.examine)


# ---------------------------------------------------------------- predicates

COUNTRIES = frozenset({"DE", "FR", "GB", "NO", "US", "ZW"})
SETS = {"EU": frozenset({"DE", "FR"}), "ALL": COUNTRIES}
TAGS = frozenset({"HOME", "EU_TAG", "X1"})
SCOPE = Scope(COUNTRIES, SETS, TAGS, candidate=True)
ATOMS = ["true", "false", "is_home", "not is_home", "n_outlets >= 3", "N < 40", "n_outlets in {2, 7, 3}", "merchant_id != 12", "mcc == \"0742\"", "mcc in {5411, \"5812\"}", "mcc > 5000", "channel == \"card_present\"",
         "channel in {\"CNP\"}", "home_country_iso in EU", "country_iso not in EU", "country_iso == home_country_iso", "\"DE\" in EU", "country_iso < \"NO\"", "candidate_rank <= 12", "\"X1\" in filter_tags",
         "\"HOME\" not in merchant_tags", "3 < n_outlets", "n_outlets == candidate_rank", "home_country_iso in {\"DE\", \"NO\"}", f"merchant_id < {2**70}", f"n_outlets > {-(2**64)}"]


def make_predicate(rng) -> str:
    """An expression of the grammar, half of the time with damage."""
    def expression(depth: int) -> str:
        roll = rng.random()
        if depth <= 0 or roll < 0.3:
            return ATOMS[int(rng.integers(len(ATOMS)))]
        if roll < 0.45:
            return f"({expression(depth - 1)})"
        if roll < 0.55:
            return f"not {expression(depth - 1)}"
        return f" {['and', 'or', '||', '&&'][int(rng.integers(4))]} ".join(expression(depth - 1) for _ in range(int(rng.integers(2, 4))))

    text = expression(int(rng.integers(5)))
    return text if rng.random() < 0.4 else damaged((text + "\n").encode(), rng).decode("utf-8", "surrogateescape")


def examine_predicate(text: str) -> bool:
    try:
        predicate = parse_predicate(text, SCOPE)
    except Seg1aError as error:
        return refused(error, SCOPE.code)
    expected = [_by_python(text, context) for context in CONTEXTS]
    assert [predicate.holds(context) for context in CONTEXTS] == expected, "another truth by itself"
    assert predicate.mask(COLUMNS, len(CONTEXTS)).tolist() == expected, "another truth by columns"
    return True


def _contexts() -> list[dict]:
    draw = np.random.default_rng(5)
    countries, lists = sorted(COUNTRIES), [(), ("HOME",), ("EU_TAG", "X1"), ("HOME", "X1")]
    return [{"merchant_id": int(draw.choice([1, 12, 2**53 + 1, 2**63 - 1])), "n_outlets": int(draw.integers(2, 50)), "mcc": int(draw.choice([742, 5411, 5812, 9999, 0])), "channel": str(draw.choice(["CP", "CNP"])),
             "home_country_iso": str(draw.choice(countries)), "country_iso": str(draw.choice(countries)), "candidate_rank": int(draw.integers(0, 40)), "is_home": bool(draw.integers(2)),
             "filter_tags": lists[int(draw.integers(4))], "merchant_tags": lists[int(draw.integers(4))]} for _ in range(12)]


CONTEXTS = _contexts()
COLUMNS = {name: np.array([context[name] for context in CONTEXTS]) for name in ("merchant_id", "n_outlets", "mcc", "candidate_rank", "is_home")} | {
    "channel": np.array([["CP", "CNP"].index(context["channel"]) for context in CONTEXTS]),
    **{name: np.array([country_code(context[name]) for context in CONTEXTS], np.int64) for name in ("home_country_iso", "country_iso")},
    **{name: ListColumn.of([context[name] for context in CONTEXTS]) for name in ("filter_tags", "merchant_tags")},
}  # fmt: skip
_WORD = re.compile(r"""("[^"]*"|'[^']*')|(\|\||&&)|([A-Za-z0-9_]+)|(-[0-9]+)""", re.ASCII)
_CHANNELS = {"card_present": "CP", "card_not_present": "CNP"}


@cache
def _code(text: str):
    """A predicate as a Python expression."""
    def word(match: re.Match) -> str:
        quoted, sign, name, number = match.groups()
        if quoted:
            inner = quoted[1:-1]
            return str(int(inner)) if re.fullmatch("[0-9]{4}", inner, re.ASCII) else repr(_CHANNELS.get(inner, inner))
        if sign:
            return " or " if sign == "||" else " and "
        if number or name.isdigit():
            return str(int(number or name))
        return {"true": "True", "false": "False", "N": "n_outlets"}.get(name, name)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # `"0742"or` becomes `742or`
        return compile(" ".join(_WORD.sub(word, text).split()), "predicate", "eval")


def _by_python(text: str, context: dict) -> bool:
    return bool(eval(_code(text), {"__builtins__": {}}, context | SETS))


# ---------------------------------------------------------------- documents

class _Types:
    """JSON-Schema's types as a governed file means them: 1.0 is no integer, true no number, NaN nothing."""

    checker = Draft202012Validator.TYPE_CHECKER.redefine_many({
        "integer": lambda _, value: type(value) is int,
        "number": lambda _, value: type(value) in (int, float) and -1.7976931348623157e308 <= value <= 1.7976931348623157e308,
    })  # fmt: skip


Strict = extend(Draft202012Validator, type_checker=_Types.checker)


def mapping(required: dict, optional: dict | None = None) -> dict:
    return {"type": "object", "required": list(required), "properties": required | (optional or {}), "additionalProperties": False}


TEXT, SEMVER, DAY = {"type": "string"}, {"type": "string", "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+\Z"}, {"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}\Z"}
NUMBER, TOKEN = {"type": "number"}, {"type": "string", "pattern": r"^[A-Z0-9_]+\Z"}
HEAD, NOTES = {"semver": SEMVER, "version": DAY}, {"notes": TEXT}


def whole(low: int, high: int) -> dict:
    return {"type": "integer", "minimum": low, "maximum": high}


def by_country(rule: dict) -> dict:
    return {"type": "object", "propertyNames": {"pattern": r"^[A-Z]{2}\Z"}, "additionalProperties": rule}


LIST_OF_TOKENS, COUNTRY_LIST = {"type": "array", "items": TOKEN, "uniqueItems": True}, {"type": "array", "items": {"type": "string", "pattern": r"^[A-Z]{2}\Z"}, "uniqueItems": True}
SITES = whole(0, 999_999)
LIMIT = {"type": "number", "minimum": 0}
OUTCOME = mapping({"reason_code": TOKEN}, {"tags": LIST_OF_TOKENS, "row_tags": LIST_OF_TOKENS, "crossborder": {"type": ["boolean"]}, "admit_countries": COUNTRY_LIST, "deny_countries": COUNTRY_LIST,
                                           "admit_named_sets": LIST_OF_TOKENS, "deny_named_sets": LIST_OF_TOKENS})
RULE = mapping({"rule_id": TOKEN, "precedence": {"enum": ["DENY", "ALLOW", "CLASS", "LEGAL", "THRESHOLD", "DEFAULT"]}, "priority": {"type": "integer", "minimum": 0}, "is_decision_bearing": {"type": "boolean"},
                "predicate": TEXT, "outcome": OUTCOME}, NOTES)
SET_OF_TEXTS = {"anyOf": [{"const": "*"}, {"const": ["*"]}, {"type": "array", "minItems": 1, "items": TEXT}]}
VECTOR = {"type": "array", "items": NUMBER}
MCCS = {"type": "array", "minItems": 1, "uniqueItems": True, "items": whole(0, 9999)}
HEADING = {"semver": TEXT, "version": TEXT}
SCHEMAS = {
    "policy.s4.hyperparams.yaml": mapping(
        HEAD | {"ztp_link": mapping({"theta0": NUMBER, "theta1": NUMBER}, {"theta2": NUMBER}), "ztp_controls": mapping({"ztp_exhaustion_policy": {"enum": ["abort", "downgrade_domestic"]}}, {"MAX_ZTP_ZERO_ATTEMPTS": whole(1, 2**31 - 1)})},
        {"X_default": {"type": "number", "minimum": 0, "maximum": 1}, "X_transform": {"enum": ["identity", "clamp01"]}, "feature_id": TEXT} | NOTES),
    "policy.s3.thresholds.yaml": mapping(HEAD, {"dp_resid": whole(0, 18), "home_floor": SITES, "floors": by_country(SITES), "ceilings": by_country({"anyOf": [SITES, {"type": "null"}]})} | NOTES),
    "policy.s3.bounds.yaml": mapping(HEAD | {"default_upper": whole(1, 999_999)}, {"overrides": by_country(whole(1, 999_999))} | NOTES),
    "policy.s3.base_weight.yaml": mapping(
        HEAD | {"dp": whole(0, 18), "constants": {"type": "object", "minProperties": 1, "propertyNames": {"pattern": r"^[a-z][a-z0-9_]*\Z"}, "additionalProperties": LIMIT},
                "selection_rules": {"type": "array", "minItems": 1, "items": mapping({"id": TOKEN, "predicate": TEXT, "score_components": {"type": "array", "items": TEXT}}, NOTES)}},
        {"sets": {"type": "object", "propertyNames": {"pattern": r"^[A-Z0-9_]+\Z"}, "additionalProperties": COUNTRY_LIST | {"minItems": 1}}} | NOTES),
    "policy.s3.rule_ladder.yaml": mapping(
        HEAD | {"precedence_order": {"type": "array", "minItems": 6, "maxItems": 6}, "reason_codes": LIST_OF_TOKENS | {"minItems": 1}, "filter_tags": LIST_OF_TOKENS | {"contains": {"const": "HOME"}},
                "reason_code_map": {"type": "object", "additionalProperties": LIST_OF_TOKENS | {"minItems": 1}}, "rules": {"type": "array", "minItems": 1, "items": RULE}},
        {"rule_set_id": TEXT, "named_sets": {"type": "object", "propertyNames": {"pattern": r"^[A-Z0-9_]+\Z"}, "additionalProperties": mapping({"countries": COUNTRY_LIST | {"minItems": 1}})}} | NOTES),
    "crossborder_hyperparams.yaml": {"type": "object", "required": ["eligibility"], "properties": {"eligibility": mapping(
        {"rule_set_id": {"type": "string", "minLength": 1}, "default_decision": {"enum": ["allow", "deny"]}, "rules": {"type": "array", "items": mapping(
            {"id": {"type": "string", "minLength": 1, "not": {"enum": ["default_allow", "default_deny"]}}, "priority": whole(0, 2**31 - 1), "decision": {"enum": ["allow", "deny"]},
             "mcc": SET_OF_TEXTS, "channel": SET_OF_TEXTS, "iso": SET_OF_TEXTS}, {"reason": {}})}})}},
    "hurdle_coefficients.yaml": mapping(HEADING | {"dicts": mapping({"mcc": MCCS, "channel": {"const": ["CP", "CNP"]}, "gdp_bucket": {"const": [1, 2, 3, 4, 5]}}), "beta": VECTOR, "beta_mu": VECTOR}, {"metadata": {}}),
    "nb_dispersion_coefficients.yaml": mapping(HEADING | {"dicts": {"type": "object"}, "beta_phi": VECTOR}, {"metadata": {}, "gdp_observation_year": whole(1900, 2200), "s2_max_attempts": whole(1, 10**9)}),
    "validation_policy.yaml": mapping(
        {"s2": mapping({"corridors": mapping({"rho_reject_max": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "p99_max": {"type": "integer", "minimum": 0}}),
                        "cusum": mapping({"reference_k": {"type": "number", "exclusiveMinimum": 0}}, {"alpha_cap": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "threshold_h": {"type": "number", "exclusiveMinimum": 0},
                                                                                                       "false_alarm": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}})}, {"notes": {}})},
        {name: {} for name in ("semver", "version", "name", "notes")} | {"s1": {"type": "object", "additionalProperties": {"type": ["number", "string"]}}, "s3": {"type": "object", "additionalProperties": {"type": ["number", "string"]}},
                                                                          "s4": {"anyOf": [{"type": "null"}, {"type": "object", "additionalProperties": LIMIT}]}}),
    "numeric_policy.json": {"type": "object", "properties": {"fma_allowed": {"const": False}, "flush_to_zero": {"const": False}, "rounding_mode": {"const": "rne"}, "version": {"type": "string", "minLength": 1}},
                            "required": ["fma_allowed", "flush_to_zero", "rounding_mode", "version"]},
    "math_profile_manifest.json": {"type": "object", "required": ["regression", "functions", "artifacts", "checksum"], "properties": {"vendor": {"const": "seg1a"}, "math_profile_id": {"const": "seg1a-cr-1"}}},
}  # fmt: skip


def _yaml_text(document: object) -> str:
    """A document as JSON, which is YAML, with the numbers that JSON does not know."""
    text = json.dumps(document, ensure_ascii=True, separators=(",", ":"))
    return re.sub(r'("(?:[^"\\]|\\.)*")|\bNaN\b|(-?)\bInfinity\b', lambda m: m[1] or (".nan" if m[0] == "NaN" else m[0].replace("Infinity", ".inf")), text)


def _isos() -> frozenset[str]:
    return frozenset(line.partition(",")[0] for line in (CHECKOUT / "reference" / "iso3166.csv").read_text("utf-8").splitlines()[1:])


ISOS = _isos()


@cache
def _loader(name: str):
    """The loader of a governed file, of its mapping."""
    tags = frozenset(read_yaml((POLICIES / "policy.s3.rule_ladder.yaml").read_bytes(), "ladder")["filter_tags"])
    hurdle = hurdle_coefficients(_few(read_yaml((POLICIES / "hurdle_coefficients.yaml").read_bytes(), "hurdle")))
    return {
        "policy.s4.hyperparams.yaml": lambda d: load_policy(_yaml_text(d).encode()), "policy.s3.thresholds.yaml": lambda d: load_thresholds(d, ISOS), "policy.s3.bounds.yaml": lambda d: load_bounds(d, ISOS),
        "policy.s3.base_weight.yaml": lambda d: load_base_weights(d, ISOS, tags), "policy.s3.rule_ladder.yaml": lambda d: load_ladder(d, ISOS),
        "crossborder_hyperparams.yaml": lambda d: eligibility_policy(d.get("eligibility"), ISOS), "hurdle_coefficients.yaml": hurdle_coefficients,
        "nb_dispersion_coefficients.yaml": lambda d: dispersion_coefficients(d, hurdle), "validation_policy.yaml": lambda d: check_validation_policy(_yaml_text(d).encode()),
        "numeric_policy.json": check_numeric_policy, "math_profile_manifest.json": check_math_profile,
    }[name]  # fmt: skip


def _few(document: dict) -> dict:
    """Coefficients of the first five MCCs: what is read ten thousand times should be short."""
    codes = len(document["dicts"]["mcc"])
    short = {key: [*beta[:6], *beta[1 + codes :]] for key, beta in document.items() if key.startswith("beta")}
    return document | short | {"dicts": document["dicts"] | {"mcc": document["dicts"]["mcc"][:5]}}


@cache
def _document(name: str) -> dict:
    data = (POLICIES / name).read_bytes()
    document = read_json(data, name) if name.endswith(".json") else read_yaml(data, name)
    return _few(document) if "coefficients" in name else document


def documents(name: str) -> Target:
    """The loader of one governed file."""
    schema, text_keys = Strict(SCHEMAS[name]), name in ("policy.s4.hyperparams.yaml", "validation_policy.yaml")

    def examine(document: dict) -> bool:
        try:
            _loader(name)(document)
        except Seg1aError as error:
            return refused(error)
        if text_keys:  # JSON has no other keys
            document = read_yaml(_yaml_text(document).encode(), name)
        wrong = next(schema.iter_errors(document), None)
        assert wrong is None, f"accepted: {wrong.json_path}: {wrong.message[:200]}"
        return True

    def make(rng) -> dict:
        document = damaged_document(_document(name), rng)
        if "checksum" in document and rng.random() < 0.8:  # else nothing behind the checksum is reached
            with suppress(Seg1aError, ValueError, TypeError):
                document["checksum"] = profile_checksum(document)
        return document

    return Target(f"document {name}", make, examine)


def share(name: str) -> float:
    """How many of the executions that are asked for a target gets: YAML is read slowly, predicates and JSON are not."""
    return {"JSON": 5.0, "predicates": 5.0, "YAML": 0.5, "event rows": 5.0, "document policy.s3.rule_ladder.yaml": 0.5, "document validation_policy.yaml": 0.3, "document policy.s4.hyperparams.yaml": 0.5}.get(name, 1.0)


def targets() -> list[Target]:
    """Every target but the event rows."""
    return [Target("JSON", make_json, examine_json), Target("YAML", make_yaml, examine_yaml), manifests(), Target("predicates", make_predicate, examine_predicate), *map(documents, SCHEMAS)]
