"""Hash inputs, canonical JSON, the strict readers."""
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg1a.core import encoding
from seg1a.core.encoding import canonical_json, canonical_line, json_value, low64, plain_scalar, pretty_json, read_json, read_yaml, ser, uer, utc_text
from seg1a.core.errors import Seg1aError

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), max_size=80)  # YAML keys end at 1024 characters
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
                      lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=30)


def refusal(expected, call, /, *args, **kwargs):
    with pytest.raises(Seg1aError) as caught:
        call(*args, **kwargs)
    assert caught.value.code == expected
    return caught.value


# ---- hash inputs

@given(st.lists(TEXTS, max_size=4), st.lists(TEXTS, max_size=4))
def test_uer_separates_tuples_of_texts(a, b):
    assert (b"".join(map(uer, a)) == b"".join(map(uer, b))) == (a == b)


@pytest.mark.parametrize("ids", [
    [("merchant_id", 1)], [("k", 1)], [("ISO", "GB")], [("", 1)],
])
def test_unsupported_ids(ids):
    refusal("E_SER_UNSUPPORTED_ID", ser, ids)


@pytest.mark.parametrize("ids", [
    [("i", -1)], [("i", 2**32)], [("j", 1.0)], [("j", "1")], [("merchant_u64", 2**64)], [("merchant_u64", None)], [("i", True)],
    [("iso", "G")], [("iso", "GBR")], [("iso", "G1")], [("iso", "ÄÖ")], [("iso", 7)], [("iso", "GB\n")],
])
def test_ids_out_of_range(ids):
    refusal("E_SER_RANGE", ser, ids)


def test_ids_are_ordered_and_upper_cased():
    assert ser([("iso", "gb"), ("i", 1)]) == ser([("iso", "GB"), ("i", 1)]) != ser([("i", 1), ("iso", "GB")])
    assert ser([]) == b""
    assert low64(bytes(range(32))) == int.from_bytes(bytes(range(24, 32)), "little")


# ---- JSON out

@given(VALUES)
def test_canonical_json_is_a_fixed_point(value):
    text = canonical_line(value)
    assert text.isascii() and text.count(b"\n") == 1
    assert canonical_line(read_json(text, "x")) == text
    assert canonical_line(read_json(pretty_json(value), "x")) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive(x):
    back = read_json(canonical_line([x]), "x")[0]
    assert back == x and math.copysign(1, back) == math.copysign(1, x) and isinstance(back, float)


LAID_OUT = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
                        lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(TEXTS, inner) | st.dictionaries(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans(), inner)
                        | st.dictionaries(st.none(), inner), max_leaves=40)


@given(LAID_OUT)
def test_pretty_json_is_what_the_library_writes_with_an_indent(value):
    assert pretty_json(value).decode() == json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def test_pretty_json_of_a_long_list():
    document = {"ids": [2**64 - 1 - i for i in range(5000)], "nested": [[i, {"j": [i]}] for i in range(50)], "rates": [i / 7 for i in range(50)]}
    assert pretty_json(document).decode() == json.dumps(document, indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("value", [{"a": [1, {"b": float("nan")}]}, [[float("inf")], [[]]], {float("nan"): [[1]]}])
def test_pretty_json_refuses_what_has_no_number_at_any_depth(value):
    refusal("E_NUM_NAN_OR_INF", pretty_json, value)


@pytest.mark.parametrize("value, error", [({1: [[]], "a": [[]]}, "not supported between"), ([[object()], [[]]], "not JSON serializable"), ({(1, 2): [[]]}, "keys must be str")])
def test_pretty_json_of_no_json_value_fails_as_the_library_does(value, error):
    for write in (pretty_json, lambda value: json.dumps(value, indent=2, sort_keys=True)):
        with pytest.raises(TypeError, match=error):
            write(value)


@pytest.mark.parametrize("x", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("write", [canonical_json, canonical_line, pretty_json])
def test_no_json_for_what_is_not_a_number(x, write):
    refusal("E_NUM_NAN_OR_INF", write, {"a": [x]})


def test_keys_are_sorted_by_code_point():
    assert canonical_json({"a": 1, "Z": 2, "\U0001f600": 3, "é": 4}) == '{"Z":2,"a":1,"\\u00e9":4,"\\ud83d\\ude00":3}'


def test_json_value_speaks_numpy():
    np = pytest.importorskip("numpy")
    value = json_value({"i": np.int64(2**62), "u": np.uint64(2**64 - 1), "f": np.float64(0.1), "b": np.bool_(True), "n": np.float32("nan"), 7: {"b", "a"}})
    assert canonical_json(value) == '{"7":["a","b"],"b":true,"f":0.1,"i":4611686018427387904,"n":"nan","u":18446744073709551615}'
    assert json_value(np.arange(3)) == "[0 1 2]"


# ---- JSON in

@pytest.mark.parametrize("text", [
    b"", b" ", b"{", b"[1,]", b"{'a':1}", b'{"a":1,"a":1}', b'{"x":{"a":1,"b":2,"a":3}}', b"NaN", b"[Infinity]", b"-Infinity", b"1e999", b"-1e999",
    b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b'"\xc3"', b'"\\ud800"', b'{"\\udfff":1}', b"[1][2]", b"01", b"+1", b".5", b'"\x01"', b"[" * 50_000,
    b"9" * 5000, b"// x\n1", '"\ufeff"'.encode(),
])
def test_json_refusals(text):
    error = refusal("E_JSON_PARSE", read_json, text, "x.json")
    assert error.detail["filename"] == "x.json" and error.detail["message"]


def test_json_other_code_and_size():
    refusal("E_DSGN_SCHEMA", read_json, b"{", "x", code="E_DSGN_SCHEMA")
    refusal("E_JSON_PARSE", read_json, b" " * encoding.MAX_BYTES + b"1", "x")
    assert read_json(b" " * (encoding.MAX_BYTES - 1) + b"1", "x") == 1


# ---- YAML: scalars

@pytest.mark.parametrize("text, value", [
    ("NO", "NO"), ("no", "no"), ("yes", "yes"), ("on", "on"), ("Off", "Off"), ("y", "y"), ("true", True), ("TRUE", True), ("tRUE", "tRUE"), ("False", False),
    ("null", None), ("~", None), ("", None), ("nULL", "nULL"),
    ("0742", 742), ("-0742", -742), ("0o17", 15), ("0o18", "0o18"), ("0x1f", 31), ("0X1f", "0X1f"), ("-0x1f", "-0x1f"), ("0b11", "0b11"), ("1_000", "1_000"),
    ("+5", 5), ("-0", 0), ("9007199254740993", 9007199254740993), ("18446744073709551615", 2**64 - 1), ("1" + "0" * 400, 10**400),
    ("1e-3", 0.001), ("1E3", 1000.0), ("1e3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-.5e+1", -5.0), ("1e", "1e"), (".", "."), ("+", "+"), ("-", "-"), ("1.0.0", "1.0.0"),
    (".inf", math.inf), ("+.INF", math.inf), ("-.Inf", -math.inf), ("inf", "inf"), ("nan", "nan"), ("1e999", math.inf), ("5e-324", 5e-324),
    ("2025-11-03", "2025-11-03"), ("2025-11-03T10:00:00Z", "2025-11-03T10:00:00Z"), ("12:30:45", "12:30:45"), ("190:20:30", "190:20:30"), ("=", "="), ("<<", "<<"),
    ("٣", "٣"), ("1٣", "1٣"), ("1\n", "1\n"),
])
def test_core_schema(text, value):
    found = plain_scalar(text)
    assert found == value and type(found) is type(value)


def test_nan_is_a_float():
    assert math.isnan(plain_scalar(".nan")) and math.isnan(read_yaml(b"a: .NaN", "x")["a"])


def test_a_document_resolves_like_its_scalars():
    words = ["NO", "0742", "1e-3", "2025-11-03", "12:30:45", "=", "~", "0o17", ".inf", "1_000"]
    assert read_yaml(f"a: [{', '.join(words)}]".encode(), "x")["a"] == [plain_scalar(word) for word in words]
    assert read_yaml("\n".join(f"k{i}: '{word}'" for i, word in enumerate(words)).encode(), "x") == {f"k{i}": word for i, word in enumerate(words)}


# ---- YAML: documents

@pytest.mark.parametrize("text", [
    "a: 1\na: 2", "{a: 1, a: 1}", "a: {b: 1, c: {d: 1, d: 2}}", "{1: a, 0x1: b}", "a: 1\n'a': 2",
    "a: &x 1", "&x a: 1", "a: *x", "a: &x [1]\nb: *x", "a: !x 1", "a: !!str 1", "a: !!int '1'", "a: ! 1", "!!map {a: 1}", "a: !!python/object:os.system {}",
    "a: 1\n---\nb: 1", "---\na: 1\n...\n---\n", "a: 1\n...\nb: 1", "%YAML 1.1\n---\na: 1", "%YAML 2.0\n---\na: 1", "%TAG ! tag:x,2000:\n---\na: 1",
    "<<: {b: 1}\na: 1", "{<<: a}", "? [a]\n: 1", "? {a: 1}\n: 1", "1.5: a", "true: a", "~: a", ": a", ".nan: a",
    "a: [1", "a: {b: 1", "a: 'x", 'a: "x', "a:\n\t- 1", "a: b: c", "a: @x", "a: `x", "a: - 1", "a: [1,,2]", 'a: "\\q"', "a: 1\n b: 2", " a: 1\nb: 2",
    "a: \x00", "a: \x07", "a: \x7f", "a: \x85", "a: \u2028", "a: \u2029b", "\ufeffa: 1", "a: \ufeff", "a: \uffff",
    'a: "\\ud83d"', 'a: "\\ude00\\ud83d"', "a: " + "9" * 5000,
    "a: " + "[" * 64 + "]" * 64, "a: " + "{b: " * 64 + "1" + "}" * 64, "a: " + "[" * 200_000,
])
def test_yaml_refusals(text):
    error = refusal("E_YAML_PARSE", read_yaml, text.encode(), "x.yaml")
    assert error.detail["filename"] == "x.yaml" and error.detail["message"] and error.message.startswith("x.yaml:")


def test_deep_block_sequences_are_refused_early():
    text = b"a:\n" + b"".join(b" " * i + b"-\n" for i in range(3000))
    assert "deeper" in refusal("E_YAML_PARSE", read_yaml, text, "x").message


def test_depth_64_is_read():
    value = read_yaml(("a: " + "[" * 63 + "]" * 63).encode(), "x")["a"]
    for _ in range(62):
        value = value[0]
    assert value == []


@pytest.mark.parametrize("data", [b"a: \xff", b"\xef\xbb\xbfa: 1", "a: 1".encode("utf-16"), b"a: \xed\xa0\x80", b"a: 1\n#" + b" " * encoding.MAX_BYTES])
def test_yaml_bytes_refused(data):
    refusal("E_YAML_PARSE", read_yaml, data, "x.yaml")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "--- ~\n", "- 1\n- 2\n", "word", "42", "[a: 1]", "a:b"])
def test_roots_that_are_no_mapping(text):
    refusal("E_YAML_ROOT", read_yaml, text.encode(), "x.yaml")
    refusal("E_ELIG_SCHEMA", read_yaml, text.encode(), "x.yaml", root_code="E_ELIG_SCHEMA")


@pytest.mark.parametrize("text, place", [
    ("a: 1\nb: 2\na: 3\n", (3, 1, None)), ("a: {b: [1, {c: 1, c: 2}]}", (1, 19, "a.b[1]")), ("a:\n  - 1\n  - *x\n", (3, 5, "a[1]")),
    ("a: 1\nb: \x07\n", (2, 4, None)), ("x: 1\na: \u2028", (2, 4, None)), ("r:\n- {i: 1}\n- {i: !t 1}\n", (3, 7, "r[1].i")),
])
def test_messages_name_the_place(text, place):
    error = refusal("E_YAML_PARSE", read_yaml, text.encode(), "x.yaml")
    assert (error.detail["line"], error.detail["column"], error.detail["key"]) == place
    assert error.message.startswith(f"x.yaml:{place[0]}:{place[1]}: ")


def test_callers_choose_the_code():
    refusal("E_DSGN_SCHEMA", read_yaml, b"a: &x 1", "x", code="E_DSGN_SCHEMA")


@pytest.mark.parametrize("text, value", [
    ("a: |\n  b\n  c\n", {"a": "b\nc\n"}), ("a: >-\n  b\n  c\n", {"a": "b c"}), ("a: b#c # d", {"a": "b#c"}), ("a:\n- 1\n- 2\n", {"a": [1, 2]}), ("{a, b}", {"a": None, "b": None}),
    ("a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}), ("742: x\n'742': y\n", {742: "x", "742": "y"}), ("%YAML 1.2\n---\na: 0742\n...\n", {"a": 742}), ("{\n\t\"a\":\t[1,\n\t2]}", {"a": [1, 2]}),
    ('a: "\\/\\x41\\u00e9\\U0001F600\\ud83d\\ude00"', {"a": "/Aé😀😀"}), ("'<<': 1", {"<<": 1}), ("a: <<", {"a": "<<"}), ("? a\n? b\n", {"a": None, "b": None}), ("{}", {}),
])
def test_yaml_that_is_fine(text, value):
    assert read_yaml(text.encode(), "x.yaml") == value


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_json_is_yaml(value):
    text = json.dumps(value, ensure_ascii=True).encode()
    assert read_yaml(text, "x") == read_json(text, "x") == value


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text("ab:-[]{}#&*!|>'\"%@`,?\n\t 01.~<=\\", max_size=60).map(str.encode))
def test_readers_never_leak_another_exception(data):
    for read in (read_yaml, read_json):
        try:
            read(data, "x")
        except Seg1aError as error:
            assert error.code in ("E_YAML_PARSE", "E_YAML_ROOT", "E_JSON_PARSE")


# ---- time

@pytest.mark.parametrize("ns, text", [(999, "1970-01-01T00:00:00.000000Z"), (1000, "1970-01-01T00:00:00.000001Z"), (1700000000000000000, "2023-11-14T22:13:20.000000Z")])
def test_utc_text(ns, text):
    assert utc_text(ns) == text


# ---- what was read is remembered

def test_a_remembered_document_cannot_be_bent():
    data = b"rules: [{id: one, weights: [1, 2.5, 18446744073709551615]}]\nnothing: ~\nword: .inf\n"
    first = read_yaml(data, "a.yaml")
    first["rules"][0]["weights"].clear()
    first["more"] = 1
    second = read_yaml(data, "b.yaml")
    assert second == {"rules": [{"id": "one", "weights": [1, 2.5, 2**64 - 1]}], "nothing": None, "word": math.inf}
    assert list(second) == ["rules", "nothing", "word"] and [type(x) for x in second["rules"][0]["weights"]] == [int, float, int]


def test_a_document_is_parsed_once_and_every_refusal_is_made_anew(monkeypatch):
    parsed = []
    build = encoding._build
    monkeypatch.setattr(encoding, "_build", lambda builder, text: parsed.append(text) or build(builder, text))
    for _ in range(3):
        assert read_yaml(b"once: 20251103", "x.yaml") == {"once": 20251103}
        assert refusal("E_YAML_PARSE", read_yaml, b"twice: 1\ntwice: 2", "x.yaml").detail["line"] == 2
        assert refusal("E_ELIG_SCHEMA", read_yaml, b"- no mapping 1103", "y.yaml", root_code="E_ELIG_SCHEMA").detail["filename"] == "y.yaml"
    assert len(parsed) == 1 + 3 + 3


def test_the_memory_of_documents_is_bounded():
    for number in range(3 * encoding._MOST_READ):
        assert read_yaml(b"n: %d" % number, "x.yaml") == {"n": number}
    assert len(encoding._READ) <= encoding._MOST_READ


def test_a_folder_is_read_ahead_and_what_is_refused_is_refused_again(tmp_path, monkeypatch):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "good.yaml").write_bytes(b"ahead: 1103")
    (tmp_path / "bad.yaml").write_bytes(b"a: 1\na: 2")
    encoding.remember_yaml(str(tmp_path))
    encoding.remember_yaml(tmp_path / "nowhere")
    refusal("E_YAML_PARSE", read_yaml, b"a: 1\na: 2", "bad.yaml")
    monkeypatch.setattr(encoding, "_build", lambda builder, text: pytest.fail("parsed again"))
    assert read_yaml(b"ahead: 1103", "good.yaml") == {"ahead": 1103}
