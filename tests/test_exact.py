"""The exact functions, kernels and reference alike, against MPFR: sweeps, edges, published hard cases, ties."""
import importlib.util
import math
import os
from fractions import Fraction
from pathlib import Path

import gmpy2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg1a.core import exact, reference
from seg1a.core.errors import Seg1aError
from seg1a.core.exact import cr_cos, cr_exp, cr_ln, cr_ln_factorial, cr_pow
from seg1a.core.exp_ln import ln_of_parts
from seg1a.core.fixed_point import round_binary64, split_float, words_of
from seg1a.core.kernels import kernel

MAX = math.ldexp(2.0 - 2.0**-52, 1023)
LEAST, NORMAL = 5e-324, 2.2250738585072014e-308


def binary64():
    "MPFR with the precision, the exponent range and the subnormals of binary64."
    return gmpy2.context(precision=53, emin=-1073, emax=1024, subnormalize=True)


def mpfr(function, *columns):
    with binary64():
        return np.array([float(function(*map(gmpy2.mpfr, row))) for row in zip(*columns)])


@kernel
def exp_loop(x, out):
    for i in range(x.size):
        out[i] = cr_exp(x[i])


@kernel
def ln_loop(x, out):
    for i in range(x.size):
        out[i] = cr_ln(x[i])


@kernel
def cos_loop(x, out):
    for i in range(x.size):
        out[i] = cr_cos(x[i])


@kernel
def pow_loop(u, y, out):
    for i in range(u.size):
        out[i] = cr_pow(u[i], y[i])


@kernel
def ln_factorial_loop(k, out):
    for i in range(k.size):
        out[i] = cr_ln_factorial(k[i])


def check(loop, python, true, *columns, unresolved=0):
    "The kernel equals MPFR bit for bit but for at most `unresolved` arguments, which the Python function gets right."
    columns = [np.asarray(c) for c in columns]
    got, want = np.empty(columns[0].size), mpfr(true, *(c.tolist() for c in columns))
    loop(*columns, got)
    open_ = np.flatnonzero(np.isnan(got))
    assert open_.size <= unresolved, [tuple(float(c[i]).hex() for c in columns) for i in open_[:5]]
    for i in open_:
        got[i] = python(*(c[i].item() for c in columns))
    bad = np.flatnonzero(got.view(np.int64) != want.view(np.int64))
    assert bad.size == 0, [(tuple(float(c[i]).hex() for c in columns), got[i].hex(), want[i].hex()) for i in bad[:5]]


def spread(rng, n, low, high):
    return np.ldexp(1.0 + rng.random(n), rng.integers(low, high, n))


def neighbours(xs, steps=3):
    "The floats around each x: `steps` below, x itself, `steps` above."
    out = []
    for x in xs:
        below = above = x
        out.append(x)
        for _ in range(steps):
            below, above = math.nextafter(below, -math.inf), math.nextafter(above, math.inf)
            out += [below, above]
    return np.array(out)


# ---- sweeps -------------------------------------------------------------------------------------------------------------------


def test_exp_sweep():
    rng = np.random.default_rng(101)
    small = spread(rng, 15_000, -60, 9) * (rng.integers(0, 2, 15_000) * 2 - 1)
    check(exp_loop, exact.exp, gmpy2.exp, np.concatenate([rng.uniform(-745.2, 709.8, 30_000), rng.uniform(-745.2, -708.0, 10_000), small]))


def test_ln_sweep():
    rng = np.random.default_rng(102)
    near = 1.0 + (rng.integers(0, 2, 15_000) * 2 - 1) * spread(rng, 15_000, -53, -1) / 2
    subnormal = rng.integers(1, 1 << 52, 5_000).astype(np.uint64).view(np.float64)
    check(ln_loop, exact.ln, gmpy2.log, np.concatenate([rng.random(20_000) + 2.0**-60, near, spread(rng, 15_000, -1074, 1023), subnormal]))


def test_cos_sweep():
    rng = np.random.default_rng(103)
    large = spread(rng, 15_000, -30, 53) * (rng.integers(0, 2, 15_000) * 2 - 1)
    check(cos_loop, exact.cos, gmpy2.cos, np.concatenate([rng.uniform(0, 2 * math.pi, 30_000), large, rng.uniform(-(2.0**20), 2.0**20, 10_000)]))


def test_pow_sweep():
    rng = np.random.default_rng(104)
    u = np.concatenate([rng.random(25_000) + 2.0**-60, spread(rng, 15_000, -1074, 1023), 1.0 - spread(rng, 5_000, -53, -1) / 2])
    y = np.concatenate([1.0 / (1.0 - rng.random(25_000)), spread(rng, 15_000, -20, 4), spread(rng, 5_000, -10, 60)])
    y[25_000:] *= rng.integers(0, 2, 20_000) * 2 - 1
    check(pow_loop, exact.power, lambda a, b: a**b, u, y)


def test_ln_factorial_sweep():
    rng = np.random.default_rng(105)
    ks = np.concatenate([np.arange(0, 9000), np.exp2(rng.uniform(12, 53, 15_000)).astype(np.int64), 2**53 - rng.integers(1, 1000, 200)])
    check(ln_factorial_loop, exact.ln_factorial, lambda k: gmpy2.lgamma(k + 1)[0], ks)


# ---- edges --------------------------------------------------------------------------------------------------------------------


def test_exp_edges():
    ln2 = math.log(2.0)
    table = [i * ln2 / 128 for i in range(-300, 300)] + [i * ln2 for i in range(-1076, 1025)]
    ends = [709.782712893384, -745.1332191019412, -744.4400719213812, -708.3964185322641, 2.0**-53, -(2.0**-53), -(2.0**-54), 2.0**-54, 1.0]
    xs = np.concatenate([neighbours(table, 1), neighbours(ends, 20), np.ldexp(1.0, np.arange(-1074, 10)), -np.ldexp(1.0, np.arange(-1074, 10))])
    check(exp_loop, exact.exp, gmpy2.exp, xs)
    assert cr_exp(-0.0) == cr_exp(LEAST) == cr_exp(-LEAST) == 1.0
    assert cr_exp(MAX) == math.inf and cr_exp(-MAX) == 0.0
    assert all(math.isnan(cr_exp(x)) for x in (math.nan, math.inf, -math.inf))


def test_ln_edges():
    powers = np.ldexp(1.0, np.arange(-1074, 1024))
    bins = [1 + i / 128 for i in range(128)] + [(1 + i / 128) / 2 for i in range(128)] + [1 + i / 2**13 for i in range(-200, 200)]
    fine = [1 + i / 2**19 for i in range(-200, 200)]
    least = [k * LEAST for k in range(1, 50)]
    xs = np.concatenate([powers, neighbours(powers[51:-1].tolist(), 1), neighbours(bins, 2), neighbours(fine, 2), neighbours([1.0], 200), least])
    check(ln_loop, exact.ln, gmpy2.log, np.concatenate([xs[xs > 0], neighbours([NORMAL, MAX / 2, math.sqrt(0.5), math.sqrt(2.0)], 20)]))
    assert cr_ln(MAX) == 709.782712893384 and math.copysign(1.0, cr_ln(1.0)) == 1.0
    assert all(math.isnan(cr_ln(x)) for x in (math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, -LEAST))


def test_cos_edges():
    rng = np.random.default_rng(5)
    near_zeros = neighbours([(2 * k + 1) * math.pi / 2 for k in range(500)], 2)
    multiples = (rng.integers(0, 2**20, 10_000) * (math.pi / 2)).astype(np.float64)
    bins = neighbours([i / 512 * math.pi / 2 for i in range(1100)], 1)
    xs = np.concatenate([near_zeros, multiples, bins, np.ldexp(1.0, np.arange(-1074, 53)), neighbours([2.0**-27, 2.0**-26.5, 2.0**-26], 50)])
    check(cos_loop, exact.cos, gmpy2.cos, np.concatenate([xs, -xs]))
    assert all(math.isnan(cr_cos(x)) for x in (math.nan, math.inf, 2.0**53, -(2.0**53), MAX))
    for x in (2.0**53, 2.0**60 + 2.0**30, 1e22, 1e300, MAX, 6381956970095103.0 * 2.0**797):  # beyond the kernel: the reference
        assert exact.cos(x) == mpfr(gmpy2.cos, [x])[0]


def test_cos_of_zeros_far_out():
    "Floats next to a zero of the cosine, found by the continued fraction of pi/2: the reduction must keep every bit."
    with gmpy2.context(precision=400):
        half_pi = Fraction(int(gmpy2.const_pi() * gmpy2.mpz(2) ** 399), 2**400)
    xs = []
    for e in range(-1, 53):
        for m in (Fraction(2) ** e * k for k in (1, Fraction(5, 4), Fraction(3, 2), Fraction(7, 4))):
            odd = 2 * int(m / half_pi / 2) + 1
            xs.append(float(odd * half_pi))
    check(cos_loop, exact.cos, gmpy2.cos, neighbours([x for x in xs if x < 2.0**53 - 8]))


def test_pow_edges():
    us = [LEAST, 3 * LEAST, NORMAL, 1e-300, 2.0**-53, 0.1, 0.25, 0.5, 0.7, 0.75, 0.9, 1 - 2.0**-30, 1 - 2.0**-53, 1.0, 1 + 2.0**-52, 1.5, 2.0, 3.0, 1e10, MAX]
    ys = [LEAST, 1e-300, 2.0**-60, 1e-3, 0.1, 1 / 3, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 10.0, 500.5, 1074.0, 1075.0, 1e6, 2.0**53, 2.0**62, 1e300, MAX]
    pairs = [(u, s * y) for u in us for y in [0.0, *ys] for s in (1, -1)]
    check(pow_loop, exact.power, lambda a, b: a**b, *zip(*pairs), unresolved=40)
    assert all(math.isnan(cr_pow(u, y)) for u, y in [(0.0, 1.0), (-1.0, 2.0), (math.inf, 1.0), (math.nan, 1.0), (0.5, math.inf), (0.5, math.nan)])


def test_pow_of_two_is_exact():
    for n in range(-1074, 1024):
        assert exact.power(2.0, float(n)) == math.ldexp(1.0, n) == exact.power(0.5, float(-n))
    assert exact.power(2.0, 1024.0) == math.inf and exact.power(2.0, -1076.0) == 0.0


def test_overflow_and_underflow_thresholds_of_pow():
    for u in (0.1, 0.5, 0.9, 0.999, 2.5, 1e5):
        for target in (math.log(MAX), math.log(NORMAL), math.log(LEAST), math.log(LEAST) - math.log(2)):
            ys = neighbours([target / math.log(u)], 30)
            check(pow_loop, exact.power, lambda a, b: a**b, np.full(ys.size, u), ys, unresolved=3)


# ---- published hard cases -------------------------------------------------------------------------------------------------

# Arguments of the tables of worst cases by V. Lefevre and J.-M. Muller (2001 and later; J.-M. Muller, Elementary Functions, and the
# collection of the CORE-MATH project). The test shows for each that it is hard: the bits after the 53rd are one bit and a long run,
# or a long run at once.
HARD = {
    "exp": """-0x1.e8bdbfcd9144ep+3 -0x1.71e0b869b5e79p+2 -0x1.02393d5976769p+1 -0x1.2a9cad9998262p+0 -0x1.cc37ef7de7501p+0
        -0x1.22e24fa3d5cf9p-1 -0x1.dc2b5df1f7d3dp-1 -0x1.290ea09e36479p-3 -0x1.a2fefefd580dfp-13 -0x1.ed318efb627eap-27
        -0x1.4bd46601ae1efp-31 -0x1.1000000000242p-42 -0x1.2000000000288p-42 -0x1.8000000000012p-48 -0x1.0000000000001p-51
        0x1.fffffffffffffp-53 0x1.fffffffffffe0p-48 0x1.7ffe7ffee0024p-32 0x1.80017ffedffdcp-32 0x1.9e9cbbfd6080bp-31
        0x1.d7a7d893609e5p-26 0x1.ba07d73250de7p-14 0x1.d77fd13d27fffp-11 0x1.6a4d1af9cc989p-8 0x1.accfbe46b4ef0p-1
        0x1.aca7ae8da5a7bp+0 0x1.d6336a88077aap+0 0x1.42ee3c7dc4946p+1 0x1.76e7e5d7b6eacp+3 0x1.a8ead058bc6b8p+3
        0x1.1d5c2daebe367p+4 0x1.c44ce0d716a1ap+4 0x1.83d4bcdebb3f4p+2 0x1.62f71c4656b61p-1""",
    "ln": """0x1.62a88613629b6p+678 0x1.ea71d85cee020p-509 0x1.9476e304cd7c7p-384 0x1.26e9c4d327960p-232 0x1.0000000000001p+0
        0x1.8ede492d96072p+3 0x1.de7cd6751029ap+16 0x1.b890ca8637ae2p+40 0x1.ac50b409c8aeep+8 0x1.91a8dff540ff7p+2
        0x1.3d9d7d597a9ddp+4 0x1.7f3825778aaafp+4 0x1.11867637cbd03p+4 0x1.a8c02e974c315p+25 0x1.5b6e7e4e96f86p+2
        0x1.a6ae5142326b5p+0 0x1.a6ba95b1520f9p+0 0x1.a702b2ce91b3p+0 0x1.1e852e6951306p+1 0x1.006057e9892f7p+2""",
    "cos": """0x1.8000000000009p-23 0x1.8000000000024p-22 0x1.2000000000f30p-18 0x1.06b505550e6b2p-9 0x1.97ccd3d2c438fp-6
        0x1.549ec0c0c5afap-5 0x1.16e534ee36580p-4 0x1.efeef61d39ac2p-3 0x1.feb1f7920e248p-2 0x1.7cb7648526f99p-1
        0x1.c65a170474549p-1 0x1.6b8a6273d7c21p+0 0x1.34ec2f9fc9c00p+1 0x1.00147eec5cfa5p+0 0x1.0009effd4bedap-12
        0x1.0155dcbae56fdp-2 0x1.0f876ccdf6cd6p-25 0x1.146de9a66c2e3p+0""",
}
FUNCTIONS = {"exp": (exp_loop, exact.exp, gmpy2.exp), "ln": (ln_loop, exact.ln, gmpy2.log), "cos": (cos_loop, exact.cos, gmpy2.cos)}


def run_length(function, x):
    "The longest run of equal bits that starts with the 54th or 55th bit of f(x)."
    with gmpy2.context(precision=400):
        tail = gmpy2.digits(function(gmpy2.mpfr(x)), 2)[0].lstrip("-")[53:]
    return max(len(t) - len(t.lstrip(t[0])) for t in (tail, tail[1:]))


@pytest.mark.parametrize("name", HARD)
def test_published_hard_cases(name):
    loop, python, true = FUNCTIONS[name]
    xs = [float.fromhex(x) for x in HARD[name].split()]
    lengths = {x.hex(): run_length(true, x) for x in xs}
    assert {x: n for x, n in lengths.items() if n < 44} == {}
    check(loop, python, true, neighbours(xs, 1))  # the kernel itself resolves them all


def test_hard_cases_of_pow():
    "Published: 102 to 153 equal bits after the round bit, next to a float (CORE-MATH)."
    for u, y in [("0x1.ffffffffffffcp-1", "0x1.fffffffffffffp-2"), ("0x1.ffffffffffffcp-1", "-0x1.ffffffffffffdp-2"),
                 ("0x1.ffffffffffffp-1", "-0x1.ffffffffffff6p-3"), ("0x1.ffffffffffff8p-1", "-0x1.ffffffffffffbp-3")]:  # fmt: skip
        u, y = float.fromhex(u), float.fromhex(y)
        assert exact.power(u, y) == one(lambda a, b: a**b, u, y) == reference.power(u, y)


def test_near_ties_of_pow_need_the_reference():
    "(1 + x)^y next to the middle of two floats, at a distance of x^2: the kernel sees it and leaves it open."
    for n in (51, 52):
        for y in (0.5, 0.25, 0.75, 1.5, 1.25, 2.5):
            for x in (2.0**-n, -(2.0**-n), 3 * 2.0**-n, -7 * 2.0**-n):
                assert exact.power(1 + x, y) == one(lambda a, b: a**b, 1 + x, y) == reference.power(1 + x, y)
    for u, y in [(1 + 2.0**-52, 0.5), (1 - 2.0**-52, 0.25), (1 + 2.0**-52, 1.5)]:
        assert math.isnan(cr_pow(u, y)) and not math.isnan(exact.power(u, y))


# ---- exact ties -----------------------------------------------------------------------------------------------------------


def ties():
    "(u, y, exact value): 54-bit values, half way between two floats."
    for base in range(3**11 | 1, 3**11 + 90_000, 1002):
        if (base**3).bit_length() == 54:
            yield math.ldexp(base, -18), 3.0, Fraction(base**3, 2**54)
            yield math.ldexp(base, 18), 3.0, Fraction(base**3) * 2**54
            yield math.ldexp(base * base, -36), 1.5, Fraction(base**3, 2**54)
    for base in range(94_906_267, 94_906_267 + 20_000, 502):
        if (base**2).bit_length() == 54:
            yield math.ldexp(base, -27), 2.0, Fraction(base**2, 2**54)
    for base in (11_586, 11_587, 13_001, 13_777):
        if (base**4).bit_length() == 54 and base % 2:
            yield math.ldexp(base, -14), 4.0, Fraction(base**4, 2**56)


def test_exact_ties_go_to_even():
    seen = {True: 0, False: 0}
    for u, y, value in ties():
        assert math.isnan(cr_pow(u, y)), (u, y)
        got = exact.power(u, y)
        assert got == float(value) == reference.power(u, y)  # Python rounds rationals to even
        assert abs(Fraction(got) - value) == Fraction(math.ulp(float(value))) / 2  # it was a tie
        seen[Fraction(got) > value] += 1
    assert min(seen.values()) > 20  # both directions occur


def test_subnormal_ties():
    half = math.ldexp(1.0, -1075 + 1074)  # 2^-1: 2^(-1075) written as powers
    assert exact.power(half, 1075.0) == 0.0 and exact.power(2.0, -1075.0) == 0.0 and exact.power(4.0, -537.5) == 0.0
    for k in (3, 5, 7, 9, 11):  # (k/2)^n 2^... with k^2 odd: value k^2 * 2^-1075 is a tie of the subnormal grid
        u = math.ldexp(k, -537) if k * k < 2**53 else None
        with binary64():
            true = float(gmpy2.mpfr(u) ** 2)
        assert exact.power(u, 2.0) == true == u * u
    for m in (2**51 + 1, 2**51 + 3, 12345):  # m 2^-1074 exactly: no tie, exact
        assert exact.power(math.ldexp(m, -1074), 1.0) == math.ldexp(m, -1074)
        u = math.ldexp(m * 2 + 1, -1075 + 200)
        assert exact.power(u, 1.0) == u


def test_subnormal_results_round_once():
    "3^2 * 2^-1075 and the like: the tie lies on the subnormal grid, not at 53 bits."
    for k in range(3, 2001, 2):
        u = math.ldexp(k, -538)
        value = Fraction(k * k) * Fraction(2) ** -1076
        assert exact.power(u, 2.0) == float(value) == u * u


# ---- properties -----------------------------------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=LEAST, max_value=MAX, allow_subnormal=True)


def one(function, *args):
    with binary64():
        return float(function(*map(gmpy2.mpfr, args)))


def same(x, y):
    return x == y and math.copysign(1.0, x) == math.copysign(1.0, y)


@settings(max_examples=1500, deadline=None)
@given(finite)
def test_exp_of_anything(x):
    assert same(exact.exp(x), one(gmpy2.exp, x)) and same(reference.exp(x), exact.exp(x))


@settings(max_examples=1500, deadline=None)
@given(positive)
def test_ln_of_anything(x):
    assert same(exact.ln(x), one(gmpy2.log, x)) and same(reference.ln(x), exact.ln(x))


@settings(max_examples=1000, deadline=None)
@given(finite)
def test_cos_of_anything(x):
    assert same(exact.cos(x), one(gmpy2.cos, x)) and same(reference.cos(x), exact.cos(x))


@settings(max_examples=1500, deadline=None)
@given(positive, finite)
def test_power_of_anything(x, y):
    true = one(lambda a, b: a**b, x, y)
    assert same(exact.power(x, y), true) and same(reference.power(x, y), true)


@settings(max_examples=600, deadline=None)
@given(st.fractions(min_value=Fraction(1, 4), max_value=4, max_denominator=2**20), st.integers(-12, 12), st.integers(0, 3))
def test_power_of_short_numbers(x, n, s):
    "Short bases and dyadic exponents: exact results and ties are common."
    x, y = float(x), n / 2**s
    assert same(exact.power(x, y), one(lambda a, b: a**b, x, y))


@settings(max_examples=600, deadline=None)
@given(st.integers(0, 2**60))
def test_ln_factorial_of_anything(k):
    with binary64():
        true = float(gmpy2.lgamma(gmpy2.mpfr(k + 1))[0]) if k < 2**53 else None
    assert true is None or same(exact.ln_factorial(k), true)
    assert same(exact.ln_factorial(k), reference.ln_factorial(k))


@settings(max_examples=800, deadline=None)
@given(positive)
def test_the_logarithm_core_keeps_its_bound(x):
    if x == 1.0:
        return
    negative, h, l, e, err = ln_of_parts(*split_float(x))
    with gmpy2.context(precision=400):
        true = abs(gmpy2.log(gmpy2.mpfr(x))) * gmpy2.mpfr(2) ** (127 - int(e))
        assert abs(true - ((int(h) << 64) + int(l))) * 2 <= int(err)
    assert negative == (x < 1.0) and int(h) >> 63 == 1


words = st.integers(0, 2**64 - 1)


@settings(max_examples=1500, deadline=None)
@given(st.booleans(), st.integers(2**127, 2**128 - 1), st.integers(-1080, 1030), st.sampled_from([1, 2, 64, 2**20, 2**40]))
def test_rounding(negative, v, e, err):
    "Equal to Python's rounding of the rational, or NaN; NaN only if the ends of the interval round differently."
    def python(v):
        value = Fraction(v) * Fraction(2) ** (e - 127)
        return math.inf if value >= Fraction(2) ** 1024 - Fraction(2) ** 970 else float(value)

    got = round_binary64(negative, *words_of(v), e, np.uint64(err))
    if math.isnan(got):
        assert python(v - err - 1) != python(v + err + 1)
    else:
        assert same(got, -python(v) if negative else python(v))
        assert python(v - err) == python(v + err)


@settings(max_examples=600, deadline=None)
@given(st.integers(0, 2**53 - 1), st.integers(-1074, 960), st.integers(-40, 40))
def test_rounding_next_to_ties(m, e, offset):
    "A value offset by a few units from a midpoint of two floats."
    tie = 2 * m + 1  # times 2^(e-1): between m 2^e and (m+1) 2^e
    shift = 128 - tie.bit_length()
    v, exponent = (tie << shift) + offset, e - 1 - shift + 127
    if not 2**127 <= v < 2**128:
        return
    got = round_binary64(False, *words_of(v), exponent, np.uint64(10))
    if m >= 2**52 or e == -1074:
        assert math.isnan(got) == (abs(offset) <= 10)
    if not math.isnan(got):
        assert got == float(Fraction(v) * Fraction(2) ** (exponent - 127))


# ---- the other reference functions ------------------------------------------------------------------------------------------

UNARY = {
    "sin": (reference.sin, gmpy2.sin, -1e6, 1e6), "cos": (reference.cos, gmpy2.cos, -1e6, 1e6), "exp": (reference.exp, gmpy2.exp, -745, 709),
    "expm1": (reference.expm1, gmpy2.expm1, -50, 709), "log": (reference.ln, gmpy2.log, 1e-9, 1e9), "log1p": (reference.log1p, gmpy2.log1p, -1, 50),
    "tanh": (reference.tanh, gmpy2.tanh, -25, 25), "sqrt": (reference.sqrt, gmpy2.sqrt, 0, 1e9), "lgamma": (reference.lgamma, lambda x: gmpy2.lgamma(x)[0], 1e-9, 300),
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_reference_sweep(name):
    function, true, low, high = UNARY[name]
    rng = np.random.default_rng(len(name))
    n = 300 if name == "lgamma" else 3000
    tiny = spread(rng, n // 3, -300, 0) * (1 if low >= 0 else rng.choice([-1.0, 1.0], n // 3))
    xs = np.concatenate([rng.uniform(low, high, n), tiny[tiny > low]]).tolist()
    assert [function(x).hex() for x in xs] == [x.hex() for x in mpfr(true, xs).tolist()]
    assert reference.evaluate(name, [xs[0]]) == function(xs[0])


def test_reference_at_the_ends():
    for x in (LEAST, -LEAST, NORMAL, 1e-200, -1e-100):
        for name in ("sin", "tanh", "expm1", "log1p"):
            assert same(reference.evaluate(name, [x]), one(UNARY[name][1], x)), (name, x)
    for x in (1e22, 2.0**1000, MAX, -MAX):
        assert same(reference.sin(x), one(gmpy2.sin, x)) and same(reference.cos(x), one(gmpy2.cos, x))
    for x in (LEAST, 1e-300, 0.5, 1 - 2.0**-53, 1 + 2.0**-52, 2 - 2.0**-52, 2 + 2.0**-51, 3.0, 1e15 + 0.5, 2.5e305, 1e306, MAX):
        assert same(reference.lgamma(x), one(UNARY["lgamma"][1], x)), x
    for x in (LEAST, 3 * LEAST, NORMAL, MAX, 1 - 2.0**-53, 1 + 2.0**-52, 0.0, -0.0):
        assert same(reference.sqrt(x), math.sqrt(x))
    assert reference.tanh(MAX) == 1.0 and reference.expm1(-MAX) == -1.0 and reference.expm1(MAX) == math.inf
    assert same(reference.sin(-0.0), -0.0) and same(reference.log1p(-0.0), -0.0) and same(reference.tanh(-0.0), -0.0)


@settings(max_examples=800, deadline=None)
@given(finite, finite)
def test_atan2(y, x):
    assert same(reference.atan2(y, x), one(gmpy2.atan2, y, x))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([0.0, -0.0, 1.0, -1.0, LEAST, -LEAST, NORMAL, MAX, -MAX]), st.sampled_from([0.0, -0.0, 1.0, -1.0, LEAST, -LEAST, NORMAL, MAX, -MAX]))
def test_atan2_on_the_axes(y, x):
    assert same(reference.atan2(y, x), math.atan2(y, x) if 0.0 in (abs(y), abs(x)) else one(gmpy2.atan2, y, x))


@settings(max_examples=1000, deadline=None)
@given(st.integers(-(2**200), 2**200), st.integers(-1300, 1000))
def test_nearest_float(m, e):
    value = Fraction(m) * Fraction(2) ** e
    big = abs(value) >= Fraction(2) ** 1024 - Fraction(2) ** 970
    assert reference.nearest_float(m, e) == (math.copysign(math.inf, m) if big else float(value))


def test_nearest_fixed():
    with gmpy2.context(precision=600):
        for q in (0, 1, 53, 127, 300):
            for name, args, true in [("exp", (1,), gmpy2.exp(1)), ("log", (Fraction(3, 2),), gmpy2.log(gmpy2.mpfr(1.5))), ("pow", (2, Fraction(1, 2)), gmpy2.sqrt(2)),
                                     ("atan2", (1, 1), gmpy2.const_pi() / 4), ("cos", (2,), gmpy2.cos(2))]:  # fmt: skip
                assert reference.nearest_fixed(name, args, q) == int(gmpy2.rint(true * gmpy2.mpfr(2) ** q))


# ---- arrays and refusals ------------------------------------------------------------------------------------------------------


def test_arrays_equal_scalars():
    rng = np.random.default_rng(3)
    x = rng.uniform(-700, 700, (50, 7))
    assert [v.hex() for v in exact.exp_array(x).ravel().tolist()] == [exact.exp(v).hex() for v in x.ravel().tolist()]
    y = np.exp(x)[::2, 1:]  # not contiguous
    assert exact.ln_array(y).tolist() == [[exact.ln(v) for v in row] for row in y.tolist()]
    assert exact.exp_array(np.array([])).shape == (0,) and exact.ln_array([1, 2]).tolist() == [0.0, exact.ln(2.0)]


@pytest.mark.parametrize("module", [exact, reference])
def test_refusals(module):
    calls = [(module.exp, math.nan), (module.exp, math.inf), (module.ln, 0.0), (module.ln, -1.0), (module.ln, math.inf), (module.cos, math.nan),
             (module.cos, math.inf), (module.power, 0.0, 1.0), (module.power, -1.0, 1.0), (module.power, 1.0, math.nan), (module.ln_factorial, -1)]  # fmt: skip
    for function, *args in calls:
        with pytest.raises(Seg1aError) as e:
            function(*args)
        assert e.value.code == "E_NUM_NAN_OR_INF" and e.value.failure_class == "F7"


def test_results_are_plain_floats():
    for value in (exact.exp(1), exact.ln(2), exact.cos(3), exact.power(2, 3), exact.ln_factorial(5), reference.exp(1), reference.ln_factorial(5000)):
        assert type(value) is float


# ---- the campaign -------------------------------------------------------------------------------------------------------------

MILLIONS = float(os.environ.get("SEG1A_EXACT_MILLIONS", "0"))


@pytest.mark.slow
@pytest.mark.skipif(not MILLIONS, reason="set SEG1A_EXACT_MILLIONS=10 for ten million arguments a function")
@pytest.mark.parametrize("name", ["exp", "ln", "cos", "pow", "ln_factorial"])
def test_campaign(name):
    path = Path(__file__).parents[1] / "benchmarks" / "exact_functions.py"
    spec = importlib.util.spec_from_file_location("exact_functions", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    n, unresolved, differing, *_, first = benchmark.campaign(MILLIONS, names=(name,))[name]
    assert n >= MILLIONS * 1e6 * 0.99 and differing == 0, first
    assert unresolved <= n * 1e-6
