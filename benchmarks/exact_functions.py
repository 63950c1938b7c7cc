#!/usr/bin/env python3
"""The exact functions against MPFR, and beside the platform's own: differences and time.

    python benchmarks/exact_functions.py --millions 10 [--processes 2] [--seed 1] [--functions exp,ln,cos,pow,ln_factorial]

For each function, that many million random arguments are computed by the compiled kernel and by MPFR (gmpy2, precision 53 with the exponent
range and the subnormals of binary64), and compared bit for bit. Half of the arguments lie where the samplers use them, half are spread over
the whole domain by their exponent. `unresolved` counts the arguments that the kernel leaves to the reference; their final values are compared
too. The same arguments go through CPython's math module and through NumPy: `math off` and `numpy off` are the shares of results that are not
the nearest float. Times are nanoseconds of CPU a call in a loop over an array, one thread, best of three; for `math` the loop is Python's own.
Exit status 1 if any value differs from MPFR.
"""
import argparse
import math
import multiprocessing
import sys

import gmpy2
import numpy as np
from scipy.special import gammaln

from measure import compared
from seg1a.core import exact
from seg1a.core.exact import cr_cos, cr_exp, cr_ln, cr_ln_factorial, cr_pow
from seg1a.core.kernels import kernel

BATCH = 100_000
TAU = 2.0 * math.pi


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


def spread(rng, n, low, high):
    "n positive floats whose exponents are uniform in [low, high)."
    return np.ldexp(1.0 + rng.random(n), rng.integers(low, high, n))


def signs(rng, n):
    return rng.integers(0, 2, n) * 2.0 - 1.0


def exp_arguments(rng, n):
    return (np.concatenate([rng.uniform(-745.2, 709.8, n - n // 2), spread(rng, n // 2, -56, 9) * signs(rng, n // 2)]),)


def ln_arguments(rng, n):
    third = n // 3
    near = 1.0 + signs(rng, third) * spread(rng, third, -53, -1) / 2
    return (np.concatenate([rng.random(third) + 2.0**-64, near, spread(rng, n - 2 * third, -1074, 1023)]),)


def cos_arguments(rng, n):
    return (np.concatenate([rng.uniform(0.0, TAU, n - n // 2), spread(rng, n // 2, -30, 53) * signs(rng, n // 2)]),)


def pow_arguments(rng, n):
    half = n // 2
    u = np.concatenate([rng.random(n - half) + 2.0**-64, spread(rng, half, -1074, 1023)])
    y = np.concatenate([1.0 / (1.0 - rng.random(n - half)), spread(rng, half, -20, 4) * signs(rng, half)])
    return u, y


def ln_factorial_arguments(rng, n):
    return (np.concatenate([rng.integers(0, 20_000, n - n // 2), np.exp2(rng.uniform(12, 53, n // 2)).astype(np.int64)]),)


# name: arguments, kernel loop, Python function, MPFR, CPython, NumPy
FUNCTIONS = {
    "exp": (exp_arguments, exp_loop, exact.exp, gmpy2.exp, math.exp, np.exp),
    "ln": (ln_arguments, ln_loop, exact.ln, gmpy2.log, math.log, np.log),
    "cos": (cos_arguments, cos_loop, exact.cos, gmpy2.cos, math.cos, np.cos),
    "pow": (pow_arguments, pow_loop, exact.power, lambda u, y: u**y, math.pow, np.power),
    "ln_factorial": (
        ln_factorial_arguments, ln_factorial_loop, exact.ln_factorial, lambda k: gmpy2.lgamma(k + 1)[0],
        lambda k: math.lgamma(k + 1), lambda k: gammaln(k + 1.0),
    ),
}  # fmt: skip


def safely(function):
    "A libm call that reports overflow by an exception gives an infinity here."

    def call(*args):
        try:
            return function(*args)
        except OverflowError:
            return math.inf

    return call


def check_batch(task):
    "(name, arguments, unresolved, differing, math off, numpy off, first differing argument) of one batch."
    name, seed, n = task
    arguments, loop, ours, mpfr, libm, numpy_function = FUNCTIONS[name]
    args = arguments(np.random.default_rng([seed, list(FUNCTIONS).index(name)]), n)
    n = args[0].size
    values = np.empty(n)
    loop(*args, values)
    open_ = np.flatnonzero(np.isnan(values))
    columns = [a.tolist() for a in args]
    for i in open_.tolist():
        values[i] = ours(*(c[i] for c in columns))
    with gmpy2.context(precision=53, emin=-1073, emax=1024, subnormalize=True):
        true = np.array([float(mpfr(*map(gmpy2.mpfr, row))) for row in zip(*columns)])
    bits, want = values.view(np.int64), true.view(np.int64)
    bad = np.flatnonzero(bits != want)
    platform = np.array([safely(libm)(*row) for row in zip(*columns)])
    with np.errstate(all="ignore"):
        numpy_values = numpy_function(*args)
    first = tuple(c[bad[0]] for c in columns) if bad.size else None
    return name, n, open_.size, bad.size, int((platform != true).sum()), int((numpy_values != true).sum()), first


def times(name, n=300_000):
    "CPU ns a call: kernel, CPython's math, NumPy; arguments where the samplers use them."
    arguments, loop, _, _, libm, numpy_function = FUNCTIONS[name]
    args = [a[: a.size // 3] for a in arguments(np.random.default_rng(0), n)]
    if name == "ln_factorial":
        args = [np.random.default_rng(0).integers(4096, 1 << 40, n)]
    columns, out = [a.tolist() for a in args], np.empty(args[0].size)
    n = args[0].size
    calls = {"kernel": lambda: loop(*args, out), "math": lambda: [None for row in map(safely(libm), *columns)], "numpy": lambda: numpy_function(*args)}
    with np.errstate(all="ignore"):
        return tuple(compared(calls, n, 3).values())


def campaign(millions, processes=1, seed=1, names=tuple(FUNCTIONS)):
    "{name: [arguments, unresolved, differing, math off, numpy off, first differing argument]}"
    batches = max(1, round(millions * 1e6 / BATCH))
    size = min(BATCH, round(millions * 1e6))
    totals = {name: [0, 0, 0, 0, 0, None] for name in names}
    tasks = [(name, seed + i, size) for name in names for i in range(batches)]
    pool = multiprocessing.get_context("spawn").Pool(processes) if processes > 1 else None
    try:
        for name, *counts, first in (pool.imap_unordered if pool else map)(check_batch, tasks):
            total = totals[name]
            total[:5] = [a + b for a, b in zip(total, counts)]
            total[5] = total[5] or first
    finally:
        if pool:
            pool.terminate()
    return totals


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=1.0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--functions", default=",".join(FUNCTIONS))
    args = parser.parse_args()
    names = args.functions.split(",")
    if set(names) - set(FUNCTIONS):
        parser.error(f"functions are {','.join(FUNCTIONS)}")
    print(f"{'function':13}{'arguments':>11}{'differ':>8}{'unresolved':>12}{'math off':>10}{'numpy off':>11}"
          f"{'ns':>7}{'math ns':>9}{'numpy ns':>10}")  # fmt: skip
    failed = False
    for name in names:
        n, unresolved, bad, libm, numpy_off, first = campaign(args.millions, args.processes, args.seed, (name,))[name]
        ours, theirs, numpy_ns = times(name)
        print(f"{name:13}{n:>11}{bad:>8}{unresolved:>12}{libm / n:>10.3%}{numpy_off / n:>11.3%}{ours:>7.1f}{theirs:>9.1f}{numpy_ns:>10.1f}")
        if first is not None:
            print(f"  first difference at {first!r}")
        failed |= bad > 0
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
