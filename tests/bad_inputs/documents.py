"""Wrong documents: the forms of YAML and JSON, coefficients, eligibility, the policies of S3 and S4, validation, numerics."""

import math

from bad_inputs.cases import (BOUNDS, DISPERSION, ELIGIBILITY, HURDLE, LADDER, NUMERIC, PROFILE, S4, THRESHOLDS, VALIDATION, WEIGHTS, Case, Overlay, binary, everything, good, key, left_out, missing, text, whole)
from s0_support import document

from seg1a.core.encoding import canonical_json
from seg1a.core.numerics import profile_checksum

MIB = 1 << 20


# ---- forms of YAML, each in the file of the eligibility rules ------------------------------------------------------------


def form(defect: str, content: str | bytes, *names: str, code: str = "E_YAML_PARSE") -> Case:
    return Case(f"yaml: {defect}", code, (ELIGIBILITY, *names), overlay=whole(ELIGIBILITY, content))


def billion_laughs() -> str:
    """A gigabyte in a kilobyte, if somebody expands it."""
    lines = ["a0: &a0 [" + ",".join(['"lol"'] * 10) + "]"]
    return "\n".join(lines + [f"a{i}: &a{i} [" + ",".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 10)]) + "\n"


YAML_FORMS = [
    form("an empty file", "", code="E_YAML_ROOT"),
    form("only a comment", "# nothing\n", code="E_YAML_ROOT"),
    form("a list at the root", "[1, 2]\n", code="E_YAML_ROOT"),
    form("a text at the root", "eligibility\n", code="E_YAML_ROOT"),
    form("a byte order mark", b"\xef\xbb\xbfsemver: 1\n", "byte order mark"),
    form("UTF-16", "semver: 1\n".encode("utf-16"), "UTF-8"),
    form("UTF-16 without a mark", "semver: 1\n".encode("utf-16-be")),
    form("Latin-1", "notes: caf\xe9\n".encode("latin-1"), "byte 10", "UTF-8"),
    form("a NUL byte", b"semver: 1\x00\n", ":1:"),
    form("an escape sequence", "semver: \x1b[31m\n", ":1:"),
    form("a lone surrogate in bytes", b"semver: \xed\xa0\x80\n", "UTF-8"),
    form("a lone surrogate as an escape", 'a: 1\nsemver: "\\ud800"\n', ":2:", "surrogate"),
    form("a duplicate key", "a: 1\nb: 2\na: 3\n", ":3:1", "'a'", "stands twice"),
    form("a duplicate key far inside", "a:\n  - b: {c: 1, d: 2, c: 3}\n", ":2:", "'c'", "a[0].b"),
    form("a key that is 1 and one that is 0x1", "1: a\n0x1: b\n", ":2:1", "stands twice"),
    form("a gigabyte by aliases", billion_laughs(), ":1:", "anchors and aliases"),
    form("a merge key", "a: {b: 1}\nc: {<<: {d: 1}}\n", ":2:", "merge"),
    form("a tag that makes an object", 'a: !!python/object/apply:os.system ["true"]\n', ":1:", "tag"),
    form("a tag that is harmless", "a: !!str 1\n", ":1:", "tag"),
    form("two documents", "a: 1\n---\nb: 2\n", "document"),
    form("a directive of YAML 1.1", "%YAML 1.1\n---\na: 1\n", "directive"),
    form("a directive of YAML 1.0", "%YAML 1.0\n---\na: 1\n", "directive"),
    form("a directive of YAML 9.9", "%YAML 9.9\n---\na: 1\n", ":1:1", "version"),
    form("a directive of YAML 99999999999999999999.1", "%YAML 99999999999999999999.1\n---\na: 1\n"),
    form("a tab as indentation", "a:\n\tb: 1\n", ":2:"),
    form("a list as a key", "? [1, 2]\n: 3\n", "key"),
    form("a boolean as a key", "true: 1\n", "True"),
    form("a quotation that never ends", 'a: "b\n', ":"),
    form("a list that never ends", "a: [1, 2\n", ":"),
    form("an integer of 5000 digits", "a: " + "9" * 5000 + "\n", ":1:4", "4300 digits"),
    form("nested 10 000 deep in brackets", "a: " + "[" * 10_000 + "]" * 10_000 + "\n", "nested deeper"),
    form("nested 10 000 deep in braces", "a: " + "{b: " * 10_000 + "1" + "}" * 10_000 + "\n", "nested deeper"),
    form("nested 10 000 deep by indentation", "".join("  " * i + "a:\n" for i in range(2_000)), "nested deeper"),
    form("a megabyte of opening brackets", "[" * MIB, "nested deeper"),
    form("17 MiB", b"# " + b"x" * (17 * MIB), str(17 * MIB + 2)),
    form("a Unicode line break", "a: 1\u2028b: 2\n", ":1:5", "line break"),
    form("JSON5: a trailing comma twice", '{"a": 1,,}\n', ":1:"),
    good("yaml: CRLF", binary(ELIGIBILITY, lambda data: data.replace(b"\n", b"\r\n"))),
    good("yaml: the country NO without quotation marks", binary(ELIGIBILITY, lambda data: data.replace(b'["CU", "IR", "KP", "SY"]', b"[CU, IR, NO, SY]"))),
    good("yaml: priorities as 010 and 0o17", binary(ELIGIBILITY, lambda data: data.replace(b"priority: 10,", b"priority: 010,").replace(b"priority: 20,", b"priority: 0o17,"))),
    Case("yaml: a number with an underscore is a text", "E_ELIG_RULE_BAD_PRIORITY", ("priority", "'1_000'"), overlay=binary(ELIGIBILITY, lambda data: data.replace(b"priority: 10,", b"priority: 1_000,"))),
    Case("yaml: a number with an exponent is a float", "E_ELIG_RULE_BAD_PRIORITY", ("priority", "10.0"), overlay=binary(ELIGIBILITY, lambda data: data.replace(b"priority: 10,", b"priority: 1e1,"))),
    Case("yaml: yes is a text", "E_ELIG_RULE_BAD_PRIORITY", ("priority", "'yes'"), overlay=binary(ELIGIBILITY, lambda data: data.replace(b"priority: 10,", b"priority: yes,"))),
]


# ---- coefficients -------------------------------------------------------------------------------------------------------


def beta(value: str, name: str = HURDLE, key_: str = "beta") -> Overlay:
    """The first coefficient, as text."""
    return text(name, lambda content: content.replace(f'"{key_}":[', f'"{key_}":[{value},', 1))


def first_beta(value: str, name: str = HURDLE, key_: str = "beta") -> Overlay:
    """Another first coefficient, as text."""
    def change(content):
        head, _, rest = content.partition(f'"{key_}":[')
        return f'{head}"{key_}":[{value},{rest.partition(",")[2]}'
    return text(name, change)


COEFFICIENTS = [
    Case("hurdle: not in the pack", "E_PACK_MISSING", (HURDLE,), 2, damage=missing(HURDLE)),
    Case("hurdle: NaN", "E_DSGN_NONFINITE", (HURDLE, "beta[0]", "nan"), overlay=first_beta(".nan")),
    Case("hurdle: infinite", "E_DSGN_NONFINITE", (HURDLE, "beta[0]", "inf"), overlay=first_beta(".inf")),
    Case("hurdle: minus infinite", "E_DSGN_NONFINITE", (HURDLE, "beta_mu[0]", "-inf"), overlay=first_beta("-.inf", key_="beta_mu")),
    Case("hurdle: an exponent of 999", "E_DSGN_NONFINITE", (HURDLE, "beta[0]"), overlay=first_beta("1e999")),
    Case("hurdle: an exponent of 10^20", "E_DSGN_NONFINITE", (HURDLE, "beta[0]"), overlay=first_beta("1e99999999999999999999")),
    Case("hurdle: an integer beyond binary64", "E_DSGN_NONFINITE", (HURDLE, "beta[0]"), overlay=first_beta("1" + "0" * 400)),
    good("hurdle: the smallest subnormal", first_beta("5e-324")),
    good("hurdle: an exponent of -999", first_beta("1e-999")),
    good("hurdle: an integer", first_beta("-1")),
    Case("hurdle: a text", "E_DSGN_SCHEMA", (HURDLE, "beta[0]", "'1.0'"), overlay=first_beta('"1.0"')),
    Case("hurdle: a number with an underscore", "E_DSGN_SCHEMA", (HURDLE, "beta[0]", "'1_000'"), overlay=first_beta("1_000")),
    Case("hurdle: a number of base 60", "E_DSGN_SCHEMA", (HURDLE, "beta[0]", "'1:30'"), overlay=first_beta('"1:30"')),
    Case("hurdle: a boolean", "E_DSGN_SCHEMA", (HURDLE, "beta[0]", "True"), overlay=first_beta("true")),
    Case("hurdle: null", "E_DSGN_SCHEMA", (HURDLE, "beta[0]", "None"), overlay=first_beta("null")),
    Case("hurdle: one coefficient too few", "E_DSGN_SHAPE_MISMATCH", (HURDLE, "beta "), overlay=key(HURDLE, "beta", lambda b: b[:-1])),
    Case("hurdle: one coefficient too many", "E_DSGN_SHAPE_MISMATCH", (HURDLE, "beta_mu "), overlay=beta("0.0", key_="beta_mu")),
    Case("hurdle: coefficients as one text", "E_DSGN_SCHEMA", (HURDLE, "beta"), overlay=key(HURDLE, "beta", "1 2 3")),
    Case("hurdle: an unknown key", "E_DSGN_SCHEMA", (HURDLE, "colour"), overlay=key(HURDLE, "colour", "red")),
    Case("hurdle: unknown keys of two kinds", "E_DSGN_SCHEMA", (HURDLE, "7"), overlay=text(HURDLE, lambda t: t[:-1] + ',7:1,"colour":2}')),
    Case("hurdle: no coefficients", "E_DSGN_SCHEMA", (HURDLE, "beta"), overlay=key(HURDLE, "beta")),
    Case("hurdle: an MCC twice", "E_DSGN_DUP_MCC", (HURDLE, "mcc"), overlay=key(HURDLE, "dicts/mcc", lambda codes: [codes[1], *codes[1:]])),
    Case("hurdle: an MCC as text", "E_DSGN_SCHEMA", (HURDLE, "mcc"), overlay=key(HURDLE, "dicts/mcc", lambda codes: [str(codes[0]), *codes[1:]])),
    Case("hurdle: an MCC of 2^63", "E_DSGN_SCHEMA", (HURDLE, "mcc"), overlay=key(HURDLE, "dicts/mcc", lambda codes: [*codes[:-1], 2**63])),
    Case("hurdle: a sum that overflows", "E_PI_NAN_OR_INF", ("merchant",), overlay=key(HURDLE, "beta", lambda b: [8.0e307] * len(b))),
    Case("dispersion: the MCCs in another order", "E_DSGN_DICT_MISMATCH", (DISPERSION, "mcc"), overlay=key(DISPERSION, "dicts/mcc", lambda codes: [codes[1], codes[0], *codes[2:]])),
    Case("dispersion: NaN", "E_DSGN_NONFINITE", (DISPERSION, "beta_phi[0]", "nan"), overlay=first_beta(".nan", DISPERSION, "beta_phi")),
    Case("dispersion: no attempt", "E_DSGN_SCHEMA", (DISPERSION, "s2_max_attempts", "0"), overlay=key(DISPERSION, "s2_max_attempts", 0)),
    Case("dispersion: 2^63 attempts", "E_DSGN_SCHEMA", (DISPERSION, "s2_max_attempts", str(2**63)), overlay=key(DISPERSION, "s2_max_attempts", 2**63)),
    Case("dispersion: a year as text", "E_DSGN_SCHEMA", (DISPERSION, "gdp_observation_year", "'2019'"), overlay=key(DISPERSION, "gdp_observation_year", "2019")),
    Case("dispersion: a year without GDP", "E_GDP_MISSING", ("gdp.parquet",), overlay=key(DISPERSION, "gdp_observation_year", 2030)),
]


# ---- eligibility --------------------------------------------------------------------------------------------------------


def rule(defect: str, code: str, names: tuple[str, ...], **values) -> Case:
    change = everything(*(key(ELIGIBILITY, f"eligibility/rules/1/{name}", value) for name, value in values.items()))
    return Case(f"eligibility: {defect}", code, names, overlay=change)


ELIGIBILITY_RULES = [
    Case("eligibility: no block", "E_ELIG_SCHEMA", ("eligibility",), overlay=key(ELIGIBILITY, "eligibility")),
    Case("eligibility: the block a list", "E_ELIG_SCHEMA", ("eligibility",), overlay=key(ELIGIBILITY, "eligibility", [])),
    Case("eligibility: an unknown key", "E_ELIG_SCHEMA", ("colour",), overlay=key(ELIGIBILITY, "eligibility/colour", "red")),
    Case("eligibility: rules as a mapping", "E_ELIG_SCHEMA", ("rules",), overlay=key(ELIGIBILITY, "eligibility/rules", {})),
    Case("eligibility: a rule that is a text", "E_ELIG_SCHEMA", ("rules[1]",), overlay=key(ELIGIBILITY, "eligibility/rules/1", "deny")),
    Case("eligibility: no name", "E_ELIG_RULESET_ID_EMPTY", ("rule_set_id",), overlay=key(ELIGIBILITY, "eligibility/rule_set_id", "")),
    Case("eligibility: another default", "E_ELIG_DEFAULT_INVALID", ("default_decision", "'maybe'"), overlay=key(ELIGIBILITY, "eligibility/default_decision", "maybe")),
    rule("a reserved id", "E_ELIG_RULE_BAD_ID", ("'default_allow'",), id="default_allow"),
    rule("an id twice", "E_ELIG_RULE_DUP_ID", ("deny_sanctioned_home",), id="deny_sanctioned_home"),
    rule("a priority that is true", "E_ELIG_RULE_BAD_PRIORITY", ("deny_gambling", "priority", "True"), priority=True),
    rule("a priority of 2^31", "E_ELIG_RULE_BAD_PRIORITY", ("deny_gambling", "priority", str(2**31)), priority=2**31),
    rule("a decision unknown", "E_ELIG_RULE_BAD_DECISION", ("deny_gambling", "'perhaps'"), decision="perhaps"),
    rule("an MCC as a number", "E_ELIG_RULE_BAD_MCC", ("deny_gambling", "5411"), mcc=[5411]),
    rule("an MCC range that runs backwards", "E_ELIG_RULE_BAD_MCC", ("deny_gambling", "5412-5411"), mcc=["5412-5411"]),
    rule("an MCC in Arabic digits", "E_ELIG_RULE_BAD_MCC", ("deny_gambling",), mcc=["\u0665\u0664\u0661\u0661"]),
    rule("a channel unknown", "E_ELIG_RULE_BAD_CHANNEL", ("deny_gambling", "card_present"), channel=["card_present"]),
    rule("a country in small letters", "E_ELIG_RULE_BAD_ISO", ("deny_gambling", "'gb'"), iso=["gb"]),
    rule("a country that is false, as YAML 1.1 reads NO", "E_ELIG_RULE_BAD_ISO", ("deny_gambling", "False"), iso=[False]),
]


# ---- S3 -----------------------------------------------------------------------------------------------------------------

LANES = ("--s3-priors", "--s3-integerisation")


def ladder(defect: str, code: str, names: tuple[str, ...], path: str, *value) -> Case:
    return Case(f"ladder: {defect}", code, (LADDER, *names), overlay=key(LADDER, path, *value))


def predicate(defect: str, source: str, *names: str) -> Case:
    return ladder(f"predicate: {defect}", "ERR_S3_RULE_EVAL_DOMAIN", ("rules[0]", *names), "rules/0/predicate", source)


def s3(defect: str, name: str, code: str, names: tuple[str, ...], path: str, *value) -> Case:
    return Case(f"{name.split('.')[2]}: {defect}", code, (name, *names), overlay=key(name, path, *value), flags=LANES)


LADDERS = [
    Case("ladder: not in the pack", "E_PACK_MISSING", (LADDER,), 2, damage=missing(LADDER)),
    Case("ladder: not YAML", "ERR_S3_AUTHORITY_MISSING", (LADDER, ":1:"), overlay=whole(LADDER, "a: [\n")),
    Case("ladder: a duplicate key", "ERR_S3_RULE_LADDER_INVALID", (LADDER, ":2:1", "'a'"), overlay=whole(LADDER, "a: 1\na: 2\n")),
    Case("ladder: a list at the root", "ERR_S3_RULE_LADDER_INVALID", (LADDER,), overlay=whole(LADDER, "[]\n")),
    ladder("an unknown key", "ERR_S3_RULE_LADDER_INVALID", ("colour",), "colour", 1),
    ladder("a version that is no date", "ERR_S3_RULE_LADDER_INVALID", ("version", "'soon'"), "version", "soon"),
    ladder("a version as a number", "ERR_S3_RULE_LADDER_INVALID", ("semver", "1.0"), "semver", 1.0),
    ladder("the classes in another order", "ERR_S3_RULE_LADDER_INVALID", ("precedence_order",), "precedence_order/0", "ALLOW"),
    ladder("no rule", "ERR_S3_RULE_LADDER_INVALID", ("rules", "empty"), "rules", []),
    ladder("a rule that is null", "ERR_S3_RULE_LADDER_INVALID", ("rules[0]",), "rules/0", None),
    ladder("a rule id in small letters", "ERR_S3_RULE_LADDER_INVALID", ("rules[0].rule_id", "'rl'"), "rules/0/rule_id", "rl"),
    ladder("a class that does not exist", "ERR_S3_RULE_LADDER_INVALID", ("rules[0].precedence", "'MAYBE'"), "rules/0/precedence", "MAYBE"),
    ladder("a priority of -1", "ERR_S3_RULE_LADDER_INVALID", ("rules[0].priority", "-1"), "rules/0/priority", -1),
    ladder("a priority as float", "ERR_S3_RULE_LADDER_INVALID", ("rules[0].priority", "1.0"), "rules/0/priority", 1.0),
    ladder("a decision that is no boolean", "ERR_S3_RULE_LADDER_INVALID", ("rules[0].is_decision_bearing", "'yes'"), "rules/0/is_decision_bearing", "yes"),
    ladder("a predicate that is a number", "ERR_S3_RULE_LADDER_INVALID", ("rules[0].predicate", "1"), "rules/0/predicate", 1),
    ladder("an unknown country", "ERR_S3_COUNTRY_CODE_INVALID", ("named_sets.EU", "'QQ'"), "named_sets/EU/countries/0", "QQ"),
    ladder("a country that is false, as YAML 1.1 reads NO", "ERR_S3_COUNTRY_CODE_INVALID", ("named_sets.NORDIC", "False"), "named_sets/NORDIC/countries/0", False),
    ladder("a set without a country", "ERR_S3_RULE_LADDER_INVALID", ("named_sets.EU", "empty"), "named_sets/EU/countries", []),
    ladder("a set that is not defined", "ERR_S3_POLICY_REFERENCE_INVALID", ("outcome.deny_named_sets", "NOWHERE"), "rules/0/outcome/deny_named_sets", ["NOWHERE"]),
    ladder("a reason that is not listed", "ERR_S3_RULE_LADDER_INVALID", ("rules[0].outcome.reason_code", "'WHIM'"), "rules/0/outcome/reason_code", "WHIM"),
    ladder("a reason that no rule has", "ERR_S3_ORDERING_KEY_UNDEFINED", ("reason_code_map",), "reason_codes", lambda codes: [*codes, "WHIM"]),
    ladder("a tag that is not listed", "ERR_S3_RULE_LADDER_INVALID", ("rules[0].outcome.tags", "'ODD'"), "rules/0/outcome/tags", ["ODD"]),
    ladder("no default", "ERR_S3_RULE_LADDER_INVALID", ("DEFAULT",), "rules", lambda rules: [r for r in rules if r["precedence"] != "DEFAULT"]),
    predicate("empty", "", "column 1"),
    predicate("a call", '__import__("os").system("true")', "column 1"),
    predicate("an unknown name", "turnover > 3", "column 1", "'turnover'"),
    predicate("an unknown country", 'home_country_iso == "QQ"', "column 18"),
    predicate("an assignment", "mcc = 5411", "column 5"),
    predicate("a float", "n_outlets > 1.5", "column 14"),
    predicate("an integer of 5000 digits", "n_outlets > " + "9" * 5000, "column 13", "digits"),
    predicate("full-width digits", "n_outlets > \uff11", "column 13"),
    predicate("100 kB of one name", "a" * 100_000, "column 1"),
    predicate("100 kB of opening parentheses", "(" * 100_000, "nested deeper"),
    predicate("100 kB of not", "not " * 25_000 + "true", "nested deeper"),
    predicate("100 kB of blanks", " " * 100_000, "column 100001"),
    predicate("100 kB of a text that never ends", '"' + "x" * 100_000, "column 1"),
    good("ladder: predicate: 100 kB of or", key(LADDER, "rules/0/predicate", " or ".join(["n_outlets > 1000000"] * 4_600))),
    good("ladder: predicate: an integer beyond int64", key(LADDER, "rules/0/predicate", f"n_outlets > {2**64} or merchant_id in {{{2**63}, {-(2**70)}}}")),
]

WEIGHTS_THRESHOLDS_BOUNDS = [
    Case("base_weight: not in the pack", "ERR_S3_AUTHORITY_MISSING", (WEIGHTS,), overlay=left_out(WEIGHTS), flags=LANES),
    s3("dp of 19", WEIGHTS, "ERR_S3_WEIGHT_CONFIG", ("dp", "19"), "dp", 19),
    s3("dp that is true", WEIGHTS, "ERR_S3_WEIGHT_CONFIG", ("dp", "True"), "dp", True),
    s3("a negative constant", WEIGHTS, "ERR_S3_WEIGHT_CONFIG", ("constants.home_anchor", "-0.5"), "constants/home_anchor", -0.5),
    s3("a constant that is a text", WEIGHTS, "ERR_S3_WEIGHT_CONFIG", ("constants.home_anchor", "'2'"), "constants/home_anchor", "2"),
    s3("a constant of 10^300", WEIGHTS, "ERR_S3_WEIGHT_CONFIG", ("score_components",), "constants/home_anchor", 1e300),
    Case("base_weight: a constant that is NaN", "ERR_S3_WEIGHT_CONFIG", (WEIGHTS, "constants.home_anchor", "nan"), overlay=text(WEIGHTS, lambda t: t.replace('"home_anchor":2.5', '"home_anchor":.nan')), flags=LANES),
    Case("base_weight: a constant that is infinite", "ERR_S3_WEIGHT_CONFIG", (WEIGHTS, "constants.home_anchor", "inf"), overlay=text(WEIGHTS, lambda t: t.replace('"home_anchor":2.5', '"home_anchor":1e999')), flags=LANES),
    s3("a component that is not defined", WEIGHTS, "ERR_S3_WEIGHT_CONFIG", ("selection_rules[0].score_components",), "selection_rules/0/score_components", ["nothing"]),
    s3("a component that is a list", WEIGHTS, "ERR_S3_WEIGHT_CONFIG", ("selection_rules[0].score_components",), "selection_rules/0/score_components", [[]]),
    s3("a predicate of the wrong type", WEIGHTS, "ERR_S3_WEIGHT_CONFIG", ("selection_rules[0]", "column 9"), "selection_rules/0/predicate", "is_home < 3"),
    s3("an unknown tag", WEIGHTS, "ERR_S3_WEIGHT_CONFIG", ("selection_rules[0]", "tag"), "selection_rules/0/predicate", '"ODD" in filter_tags'),
    s3("a set in small letters", WEIGHTS, "ERR_S3_WEIGHT_CONFIG", ("sets.eu",), "sets/eu", ["DE"]),
    s3("a ceiling below its floor", THRESHOLDS, "ERR_S3_INTEGER_FEASIBILITY", ("ceilings.AD",), "floors", {"AD": 9}),
    s3("a floor of 2^63", THRESHOLDS, "ERR_S3_INTEGER_FEASIBILITY", ("floors.AD", str(2**63)), "floors", {"AD": 2**63}),
    s3("a floor of an unknown country", THRESHOLDS, "ERR_S3_COUNTRY_CODE_INVALID", ("floors", "'QQ'"), "floors", {"QQ": 1}),
    s3("floors as a list", THRESHOLDS, "ERR_S3_INTEGER_FEASIBILITY", ("floors",), "floors", ["AD"]),
    s3("dp_resid of -1", THRESHOLDS, "ERR_S3_INTEGER_FEASIBILITY", ("dp_resid", "-1"), "dp_resid", -1),
    s3("a home floor that is null", THRESHOLDS, "ERR_S3_INTEGER_FEASIBILITY", ("home_floor", "None"), "home_floor", None),
    s3("no upper bound", BOUNDS, "ERR_S3_INTEGER_FEASIBILITY", ("default_upper",), "default_upper"),
    s3("an upper bound of 1000000", BOUNDS, "ERR_S3_INTEGER_FEASIBILITY", ("default_upper", "1000000"), "default_upper", 1_000_000),
    s3("an override of 0", BOUNDS, "ERR_S3_INTEGER_FEASIBILITY", ("overrides.AD", "0"), "overrides/AD", 0),
    s3("an override of an unknown country", BOUNDS, "ERR_S3_COUNTRY_CODE_INVALID", ("overrides", "'QQ'"), "overrides/QQ", 1),
]


# ---- S4 and validation --------------------------------------------------------------------------------------------------


def s4(defect: str, names: tuple[str, ...], path: str, *value) -> Case:
    return Case(f"S4 policy: {defect}", "ERR_S4_POLICY_INVALID", (S4, *names), overlay=key(S4, path, *value))


def validation(defect: str, code: str, names: tuple[str, ...], path: str, *value) -> Case:
    return Case(f"validation policy: {defect}", code, (VALIDATION, *names), overlay=key(VALIDATION, path, *value))


S4_POLICIES = [
    Case("S4 policy: not in the pack", "E_PACK_MISSING", (S4,), 2, damage=missing(S4)),
    Case("S4 policy: a duplicate key", "ERR_S4_POLICY_INVALID", (S4, ":2:1"), overlay=whole(S4, "a: 1\na: 2\n")),
    Case("S4 policy: an empty file", "ERR_S4_POLICY_INVALID", (S4,), overlay=whole(S4, "")),
    Case("S4 policy: NaN", "ERR_S4_POLICY_INVALID", (S4, "theta0", "nan"), overlay=text(S4, lambda t: t.replace('"theta0":-1.0', '"theta0":.nan'))),
    Case("S4 policy: an exponent of 999", "ERR_S4_POLICY_INVALID", (S4, "theta0", "inf"), overlay=text(S4, lambda t: t.replace('"theta0":-1.0', '"theta0":1e999'))),
    s4("an integer beyond binary64", ("theta1",), "ztp_link/theta1", 10**400),
    s4("a coefficient that is true", ("theta1", "True"), "ztp_link/theta1", True),
    s4("no level", ("theta0", "missing"), "ztp_link/theta0"),
    s4("a cap of 0", ("MAX_ZTP_ZERO_ATTEMPTS", "1 and"), "ztp_controls/MAX_ZTP_ZERO_ATTEMPTS", 0),
    s4("a cap of 2^31", ("MAX_ZTP_ZERO_ATTEMPTS",), "ztp_controls/MAX_ZTP_ZERO_ATTEMPTS", 2**31),
    s4("a cap as float", ("MAX_ZTP_ZERO_ATTEMPTS", "64.0"), "ztp_controls/MAX_ZTP_ZERO_ATTEMPTS", 64.0),
    s4("an unknown way out", ("ztp_exhaustion_policy", "'retry'"), "ztp_controls/ztp_exhaustion_policy", "retry"),
    s4("a default openness of 1.5", ("X_default", "1.5"), "X_default", 1.5),
    s4("an unknown transform", ("X_transform", "'log'"), "X_transform", "log"),
    s4("an unknown key", ("colour",), "colour", 1),
    s4("a version that is no date", ("version", "2025-02-30"), "version", "2025-02-30"),
    Case("S4 policy: its block in another file", "ERR_S4_POLICY_INVALID", (THRESHOLDS, "ztp_link"), overlay=key(THRESHOLDS, "ztp_link", {})),
]

VALIDATION_POLICIES = [
    Case("validation policy: not in the pack", "E_PACK_MISSING", (VALIDATION,), 2, damage=missing(VALIDATION)),
    Case("validation policy: not YAML", "ERR_S2_CORRIDOR_POLICY_MISSING", (VALIDATION, ":1:"), overlay=whole(VALIDATION, "a: [\n")),
    Case("validation policy: an empty file", "E_YAML_ROOT", (VALIDATION,), overlay=whole(VALIDATION, "")),
    validation("no block s2", "ERR_S2_CORRIDOR_POLICY_MISSING", ("s2",), "s2"),
    validation("a rejection rate of 1", "ERR_S2_CORRIDOR_POLICY_MISSING", ("rho_reject_max", "1.0"), "s2/corridors/rho_reject_max", 1.0),
    validation("a percentile as float", "ERR_S2_CORRIDOR_POLICY_MISSING", ("p99_max", "3.0"), "s2/corridors/p99_max", 3.0),
    validation("both limits", "ERR_S2_CORRIDOR_POLICY_MISSING", ("threshold_h", "false_alarm"), "s2/cusum/threshold_h", 24.0),
    validation("a false alarm that is a text", "ERR_S2_CORRIDOR_POLICY_MISSING", ("false_alarm", "'1e-4'"), "s2/cusum/false_alarm", "1e-4"),
    validation("an unknown key in s2", "ERR_S2_CORRIDOR_POLICY_MISSING", ("colour",), "s2/colour", 1),
    validation("an integer beyond binary64", "ERR_S2_CORRIDOR_POLICY_MISSING", ("rho_reject_max",), "s2/corridors/rho_reject_max", 10**400),
    validation("a limit of s4 that is a text", "ERR_S4_POLICY_INVALID", ("s4.z_warn", "'4'"), "s4/z_warn", "4"),
    validation("a warning above its failure", "ERR_S4_POLICY_INVALID", ("s4.z_warn",), "s4/z_warn", 7.0),
    validation("an unknown key in s4", "ERR_S4_POLICY_INVALID", ("s4.colour",), "s4/colour", 1),
    validation("s3 a list", "E_VALIDATION_POLICY", ("s3",), "s3", []),
    validation("a limit of s3 that is a text", "E_VALIDATION_POLICY", ("s3.ceiling_hits_warn", "'1'"), "s3/ceiling_hits_warn", "1"),
    validation("an unknown key in s3", "E_VALIDATION_POLICY", ("s3.colour",), "s3/colour", 1),
    validation("s1 a text", "E_VALIDATION_POLICY", ("s1",), "s1", "z"),
    validation("a limit of s1 that is null", "E_VALIDATION_POLICY", ("s1.z_warn", "None"), "s1/z_warn", None),
    validation("an unknown block", "E_VALIDATION_POLICY", ("s9",), "s9", {}),
]


# ---- governance ---------------------------------------------------------------------------------------------------------


def profile(change) -> Overlay:
    """A math profile with another content under a right checksum."""
    def overlay(pack):
        content = document(pack, PROFILE)
        content = change(content) or content
        return {PROFILE: canonical_json(content | {"checksum": profile_checksum(content)}).encode()}
    return overlay


def wrong_bit(content):
    value = float.fromhex(content["regression"][0]["value"])
    content["regression"][0]["value"] = math.nextafter(value, math.inf).hex()


GOVERNANCE = [
    Case("numeric policy: fused operations allowed", "E_NUMERIC_POLICY_VALUE", (NUMERIC, "fma_allowed", "True"), overlay=key(NUMERIC, "fma_allowed", True)),
    Case("numeric policy: no JSON", "E_NUMERIC_POLICY_VALUE", (NUMERIC,), overlay=whole(NUMERIC, "{")),
    good("numeric policy: a further key", key(NUMERIC, "colour", 1)),
    Case("numeric policy: a list", "E_NUMERIC_POLICY_VALUE", (NUMERIC,), overlay=whole(NUMERIC, "[]")),
    Case("numeric policy: 0 for false", "E_NUMERIC_POLICY_VALUE", (NUMERIC, "fma_allowed", "0"), overlay=key(NUMERIC, "fma_allowed", 0)),
    Case("math profile: somebody else's", "E_MATH_PROFILE_VALUE", (PROFILE, "vendor", "'somebody'"), overlay=key(PROFILE, "vendor", "somebody")),
    Case("math profile: a wrong checksum", "E_MATH_PROFILE_VALUE", (PROFILE, "checksum"), overlay=key(PROFILE, "version", "other")),
    Case("math profile: one bit too many", "E_NUM_LIBM_PROFILE", ("exp",), overlay=profile(wrong_bit)),
    Case("math profile: an argument that is no number", "E_MATH_PROFILE_VALUE", (PROFILE, "regression"), overlay=profile(lambda content: content["regression"][0].update(args=["half"]))),
    Case("math profile: an argument that overflows", "E_MATH_PROFILE_VALUE", (PROFILE, "regression"), overlay=profile(lambda content: content["regression"][0].update(args=["0x1p9999"]))),
    Case("math profile: a function with two arguments too many", "E_MATH_PROFILE_VALUE", (PROFILE, "regression"), overlay=profile(lambda content: content["regression"][0].update(args=["0x1p0"] * 3))),
    Case("math profile: an unknown function", "E_MATH_PROFILE_VALUE", (PROFILE, "regression"), overlay=profile(lambda content: content["regression"][0].update(fn="gamma"))),
    Case("math profile: a file that the pack does not hold", "E_NUM_PROFILE_ARTIFACT_MISSING", ("libm.so",), overlay=profile(lambda content: content.update(artifacts=[{"name": "libm.so", "sha256": "0" * 64}]))),
    Case("math profile: nested 10 000 deep", "E_MATH_PROFILE_VALUE", (PROFILE,), overlay=whole(PROFILE, "[" * 10_000)),
    Case("math profile: a duplicate key", "E_MATH_PROFILE_VALUE", (PROFILE, "'vendor'", "twice"), overlay=text(PROFILE, lambda t: t[:-1] + ',"vendor":"seg1a"}')),
    Case("math profile: NaN", "E_MATH_PROFILE_VALUE", (PROFILE, "NaN"), overlay=text(PROFILE, lambda t: t[:-1] + ',"x":NaN}')),
]

CASES = YAML_FORMS + COEFFICIENTS + ELIGIBILITY_RULES + LADDERS + WEIGHTS_THRESHOLDS_BOUNDS + S4_POLICIES + VALIDATION_POLICIES + GOVERNANCE
