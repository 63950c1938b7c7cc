"""Sums, links, total order, governed files, self-tests: the faults that the notebook does not show, and properties."""
import copy
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg1a.core import exact, numerics, reference
from seg1a.core.errors import Seg1aError
from seg1a.core.numerics import (
    attestation, check_math_profile, check_numeric_policy, cr_logistic, logistic, neumaier4_k, neumaier_array, neumaier_dot, neumaier_sum,
    neumaier_sum_c, neumaier_sum_k, profile_checksum, self_tests, total_order_key,
)  # fmt: skip

POLICIES = Path(__file__).parents[1] / "policies"
finite = st.floats(allow_nan=False, allow_infinity=False)
moderate = st.floats(min_value=-1e100, max_value=1e100)


def refusal(code, call, *args):
    with pytest.raises(Seg1aError) as e:
        call(*args)
    assert e.value.code == code and e.value.failure_class == "F7"
    return e.value.detail


# ---- sums -------------------------------------------------------------------------------------------------------------------


def literal(xs):
    "S0 3.6, word for word."
    s = c = 0.0
    for x in xs:
        t = s + x
        if abs(s) >= abs(x):
            c += (s - t) + x
        else:
            c += (x - t) + s
        s = t
    return s, c


@settings(max_examples=400, deadline=None)
@given(st.lists(moderate, max_size=40))
def test_sums_agree(xs):
    s, c = literal(xs)
    assert neumaier_sum_c(xs) == (s, c)
    for value in (neumaier_sum(xs), neumaier_array(np.array(xs)), neumaier_sum_k(np.array(xs, dtype=np.float64))):
        assert value.hex() == (s + c).hex()


@settings(max_examples=400, deadline=None)
@given(moderate, moderate, moderate, moderate)
def test_four_terms_agree(a, b, c, d):
    assert neumaier4_k(a, b, c, d).hex() == neumaier_sum([a, b, c, d]).hex()


@settings(max_examples=300, deadline=None)
@given(st.lists(moderate, max_size=12), st.data())
def test_zeros_may_be_skipped(xs, data):
    padded = list(xs)
    for _ in range(data.draw(st.integers(0, 30))):
        padded.insert(data.draw(st.integers(0, len(padded))), 0.0)
    assert neumaier_sum(padded).hex() == neumaier_sum([x for x in xs if x]).hex()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(min_value=-1e20, max_value=1e20), min_size=1, max_size=100))
def test_sum_is_accurate(xs):
    "Neumaier's bound: |error| <= u |sum| + n^2 u^2 sum |x| (Neumaier 1974), with a unit to spare for each."
    true, size = sum(map(Fraction, xs)), sum(abs(Fraction(x)) for x in xs)
    u = Fraction(1, 2**53)
    assert abs(Fraction(neumaier_sum(xs)) - true) <= 2 * u * abs(true) + 2 * len(xs) ** 2 * u**2 * size + Fraction(5e-324)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(moderate, st.floats(min_value=-1e50, max_value=1e50)), max_size=30))
def test_dot_is_the_sum_of_products(pairs):
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    assert neumaier_dot(a, b).hex() == neumaier_sum([x * y for x, y in pairs]).hex()


def test_dot_of_unequal_lengths():
    with pytest.raises(ValueError, match="zip"):
        neumaier_dot([1.0, 2.0], [1.0])


def test_array_orders():
    xs = np.random.default_rng(1).normal(size=(30, 40)) * 10.0 ** np.random.default_rng(2).integers(-10, 10, (30, 40))
    assert neumaier_array(xs) == neumaier_sum(xs.ravel().tolist()) and neumaier_array(xs.T) == neumaier_sum(xs.T.ravel().tolist())
    assert neumaier_array(xs[::3, ::2]) == neumaier_sum(xs[::3, ::2].ravel().tolist())
    assert neumaier_array(np.arange(5)) == 10.0


# ---- link and order -----------------------------------------------------------------------------------------------------------


@settings(max_examples=1000, deadline=None)
@given(st.floats(min_value=-800.0, max_value=800.0))
def test_logistic(eta):
    z = exact.exp(-abs(eta))
    want = 1.0 / (1.0 + z) if eta >= 0 else z / (1.0 + z)
    assert logistic(eta).hex() == cr_logistic(eta).hex() == want.hex() and 0.0 <= want <= 1.0


def test_logistic_ends():
    assert logistic(-745.1332191019411) == 5e-324 and logistic(-745.1332191019412) == 0.0 and logistic(1e308) == 1.0 and logistic(-1e308) == 0.0
    assert logistic(37.0) == 1.0 and logistic(36.0) < 1.0
    for eta in (math.nan, math.inf, -math.inf):
        assert math.isnan(cr_logistic(eta))
        refusal("E_NUM_NAN_OR_INF", logistic, eta)


@settings(max_examples=1000, deadline=None)
@given(finite, finite)
def test_total_order(x, y):
    kx, ky = total_order_key(x), total_order_key(y)
    assert 0 <= kx < 1 << 64
    if x != y:
        assert (kx < ky) == (x < y)
    else:
        assert (kx < ky) == (math.copysign(1, x) < math.copysign(1, y))


def test_total_order_steps_by_one():
    x = -2.0
    for _ in range(100):
        up = math.nextafter(x, math.inf)
        assert total_order_key(up) == total_order_key(x) + 1
        x = up
    assert total_order_key(np.float64(1.5)) == total_order_key(1.5) and total_order_key(3) == total_order_key(3.0)
    refusal("E_NUM_TOTORDER_NAN", total_order_key, -math.nan)


# ---- the governed files ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy():
    return json.loads((POLICIES / "numeric_policy.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def profile():
    return json.loads((POLICIES / "math_profile_manifest.json").read_text("utf-8"))


def test_shipped_files_pass(policy, profile):
    check_numeric_policy(policy)
    check_math_profile(profile)
    tests = self_tests(profile)
    assert set(tests.values()) == {True} and len(tests) == 6
    bytes_ = [(POLICIES / n).read_bytes() for n in ("numeric_policy.json", "math_profile_manifest.json")]
    text = attestation(*bytes_)
    assert text == attestation(*bytes_) and text.count(b"\n") == 1
    facts = json.loads(text)
    assert facts["passed"] is True and facts["profile_functions"] == sorted(profile["functions"])
    assert [d["name"] for d in facts["digests"]] == ["math_profile_manifest.json", "numeric_policy.json"]


@pytest.mark.parametrize("key", ["version", *numerics._NUMERIC_POLICY])
def test_policy_keys(policy, key):
    assert refusal("E_NUMERIC_POLICY_VALUE", check_numeric_policy, {k: v for k, v in policy.items() if k != key})["key"] == key
    for wrong in (None, 1, 0, "", [], {}):
        if wrong != policy[key] or type(wrong) is not type(policy[key]):
            assert refusal("E_NUMERIC_POLICY_VALUE", check_numeric_policy, policy | {key: wrong})["key"] == key


def test_policy_root(policy):
    for root in ([], None, "policy", 1):
        refusal("E_NUMERIC_POLICY_VALUE", check_numeric_policy, root)
    check_numeric_policy(policy | {"anything": 1})


def edited(profile, key, value, sign=True):
    out = copy.deepcopy(profile)
    if value is None:
        del out[key]
    else:
        out[key] = value
    if sign and key != "checksum":
        out["checksum"] = profile_checksum(out)
    return out


CASE = {"fn": "exp", "args": ["0x1p0"], "value": "0x1.5bf0a8b145769p+1"}
WRONG = [
    ("math_profile_id", "seg1a-pymath-1"), ("math_profile_id", None), ("vendor", "cpython-math"), ("vendor", None), ("version", 1), ("version", ""),
    ("version", None), ("functions", None), ("functions", {}), ("functions", ["cos", "exp", "lgamma", "log", "pow"]), ("functions", [1]),
    ("functions", ["sqrt", "pow", "log", "lgamma", "exp", "cos"]), ("functions", ["cos", "cos", "exp", "lgamma", "log", "pow", "sqrt"]),
    ("functions", ["cos", "erf", "exp", "lgamma", "log", "pow", "sqrt"]), ("artifacts", None), ("artifacts", {}), ("artifacts", [1]),
    ("artifacts", [{"name": "libm.so"}]), ("artifacts", [{"name": "libm.so", "sha256": "00"}]), ("artifacts", [{"name": 1, "sha256": "0" * 64}]),
    ("regression", None), ("regression", {}), ("regression", []), ("regression", [CASE]), ("regression", [1]), ("regression", [CASE | {"fn": "erf"}]),
    ("regression", [CASE | {"args": []}]), ("regression", [CASE | {"args": [1.0]}]), ("regression", [CASE | {"args": "0x1p0"}]),
    ("regression", [CASE | {"args": ["0x1p0", "0x1p0"]}]), ("regression", [CASE | {"value": "2.718"}]), ("regression", [CASE | {"value": "nan"}]), ("regression", [CASE | {"value": "0x1p99999"}]),
    ("regression", [CASE | {"note": ""}]), ("checksum", None), ("checksum", "0" * 64), ("checksum", 0), ("comment", "unknown key"),
]  # fmt: skip


@pytest.mark.parametrize("key, value", WRONG, ids=lambda v: str(v)[:40])
def test_profile_keys(profile, key, value):
    assert refusal("E_MATH_PROFILE_VALUE", check_math_profile, edited(profile, key, value))["key"] == key


def test_profile_unsigned_change(profile):
    assert refusal("E_MATH_PROFILE_VALUE", check_math_profile, edited(profile, "version", "2", sign=False))["key"] == "checksum"
    for root in ([], None, 1):
        refusal("E_MATH_PROFILE_VALUE", check_math_profile, root)


def test_profile_artifacts_allowed(profile):
    check_math_profile(edited(profile, "artifacts", [{"name": "crlib.so", "sha256": "ab" * 32}]))


def test_attestation_refuses_bad_bytes(policy, profile):
    good = json.dumps(policy).encode(), json.dumps(profile).encode()
    for bad in (b"", b"{", b"\xef\xbb\xbf{}", b'{"version":"1","version":"1"}', b'{"x": NaN}'):
        refusal("E_NUMERIC_POLICY_VALUE", attestation, bad, good[1])
        refusal("E_MATH_PROFILE_VALUE", attestation, good[0], bad)


# ---- self-tests -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", ["exp", "log", "cos", "pow", "lgamma", "sqrt", "atan2", "tanh", "sin", "expm1", "log1p"])
def test_one_wrong_bit_is_found(profile, fn):
    wrong = copy.deepcopy(profile)
    i = next(i for i, c in enumerate(wrong["regression"]) if c["fn"] == fn)
    wrong["regression"][i]["value"] = math.nextafter(float.fromhex(wrong["regression"][i]["value"]), 2.0).hex()
    detail = refusal("E_NUM_LIBM_PROFILE", self_tests, wrong)
    assert detail["func"] == fn and detail["i"] == i and detail["expected"] != detail["observed"]


@pytest.mark.parametrize("name, fn", [("exp", "exp"), ("log", "log"), ("cos", "cos"), ("pow", "pow"), ("sqrt", "sqrt")])
def test_a_wrong_kernel_is_found(profile, monkeypatch, name, fn):
    right = numerics._KERNELS[name]
    monkeypatch.setitem(numerics._KERNELS, name, lambda *args: math.nextafter(right(*args), math.inf))
    assert refusal("E_NUM_LIBM_PROFILE", self_tests, profile)["func"] == f"{fn} (kernel)"


def test_a_wrong_ln_factorial_is_found(profile, monkeypatch):
    monkeypatch.setattr(numerics, "cr_ln_factorial", lambda k: 1.0)
    assert refusal("E_NUM_LIBM_PROFILE", self_tests, profile)["func"] == "lgamma (kernel)"


def test_arguments_beyond_the_kernels(profile):
    far = copy.deepcopy(profile)
    for fn, x in (("lgamma", 2.0**70), ("cos", 2.0**70)):
        far["regression"].append({"fn": fn, "args": [x.hex()], "value": reference.evaluate(fn, [x]).hex()})
    assert self_tests(far)["libm_regression_ok"] is True


def test_an_open_rounding_is_no_failure(profile, monkeypatch):
    monkeypatch.setitem(numerics._KERNELS, "exp", lambda x: math.nan)
    assert self_tests(profile)["libm_regression_ok"] is True


@pytest.mark.parametrize("where", ["python", "kernel"])
@pytest.mark.parametrize("code", ["E_NUM_RNDMODE", "E_NUM_FTZ_ON", "E_NUM_FMA_ON"])
def test_bad_arithmetic_is_found(profile, monkeypatch, where, code):
    plus, times, times_plus = numerics._ARITHMETIC[where]
    bad = {
        "E_NUM_RNDMODE": (lambda a, b: math.nextafter(plus(a, b), 0.0) if Fraction(plus(a, b)) != Fraction(a) + Fraction(b) else plus(a, b), times, times_plus),
        "E_NUM_FTZ_ON": (plus, lambda a, b: 0.0 if abs(times(a, b)) < 2.3e-308 else times(a, b), times_plus),
        "E_NUM_FMA_ON": (plus, times, lambda a, b, c: float(Fraction(a) * Fraction(b) + Fraction(c))),
    }[code]
    monkeypatch.setitem(numerics._ARITHMETIC, where, bad)
    assert refusal(code, self_tests, profile)["func"] == where


def test_wrong_sums_and_orders_are_found(profile, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(numerics, "neumaier4_k", lambda *xs: sum(xs))
        refusal("E_NUM_ULP_MISMATCH", self_tests, profile)
    with monkeypatch.context() as m:
        m.setattr(numerics, "neumaier_sum_c", lambda xs: (math.fsum(xs), 0.0))
        refusal("E_NUM_ULP_MISMATCH", self_tests, profile)
    with monkeypatch.context() as m:
        m.setattr(numerics, "total_order_key", lambda x: abs(x))
        refusal("E_NUM_TOTORDER_NAN", self_tests, profile)
    with monkeypatch.context() as m:
        m.setattr(numerics, "total_order_key", lambda x: 0 if x != x else total_order_key(x))
        refusal("E_NUM_TOTORDER_NAN", self_tests, profile)


def test_evaluate_knows_the_profile(profile):
    for fn in profile["functions"]:
        assert callable(reference._BY_NAME[fn])
    refusal("E_MATH_PROFILE_VALUE", reference.evaluate, "erf", [1.0])
