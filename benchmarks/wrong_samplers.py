"""Samplers with a deliberate fault, put in the place of the right ones: what the validators and the statistics are tried on.

`with installed("lanes"): ...` runs the states S1, S2 and S4 with the fault; `FAULTS` names them all. The wrong kernels are compiled in memory,
so that no cache ever holds one.
"""
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from unittest import mock

import numba
import numpy as np
from numba.core.dispatcher import Dispatcher

from seg1a.core.exact import cr_ln, cr_ln_factorial
from seg1a.core.kernels import kernel
from seg1a.core.philox import counter_add, philox_block
from seg1a.core.samplers import _poisson_ptrs_k, gamma_k, poisson_k, ptrs_constants, uniform2_k
from seg1a.states import s1_hurdle, s2_attempts, s4_sampler

SHAPE_FACTOR, RATE_FACTOR, SHIFT = 1.05, 1.02, 0.01


@kernel
def printed_ptrs(lam, key, hi, lo):
    "The transformed rejection as printed (R13): the first acceptance takes b v/u, the second uses v for u. No Poisson sampler."
    a, b, inv_alpha, v_r = ptrs_constants(lam)
    blocks = np.int64(0)
    while True:
        u, v = uniform2_k(key, hi, lo)
        hi, lo = counter_add(hi, lo, 1)
        blocks += 1
        if u <= 0.86 and v <= v_r:
            return np.int64(math.floor(b * v / u + lam + 0.43)), blocks
        s = 0.5 - abs(u - 0.5)
        k = math.floor((2.0 * a / s + b) * v + lam + 0.43)
        if k < 0 or (s < 0.013 and v > s):
            continue
        if cr_ln(v * inv_alpha / (a / (s * s) + b)) <= k * cr_ln(lam) - lam - cr_ln_factorial(np.int64(k)):
            return np.int64(k), blocks


@kernel
def wide_gamma(alpha, key, hi, lo):
    "The gamma variate of a shape that is 5 % too large."
    return gamma_k(SHAPE_FACTOR * alpha, key, hi, lo)


@kernel
def fast_poisson(lam, key, hi, lo):
    "The Poisson variate of a rate that is 2 % too large."
    return poisson_k(RATE_FACTOR * lam, key, hi, lo)


@kernel
def swapped_block(key, hi, lo):
    "The block with its two words exchanged."
    x0, x1 = philox_block(key, hi, lo)
    return x1, x0


@kernel
def lenient_decisions(pi, key, hi, lo, u, is_multi, blocks, after_hi, after_lo):
    "The hurdle with u <= pi + 0.01 in the place of u < pi."
    _right_decisions(pi, key, hi, lo, u, is_multi, blocks, after_hi, after_lo)
    for i in range(pi.size):
        if blocks[i] > 0:
            is_multi[i] = u[i] <= pi[i] + SHIFT


_right_decisions = s1_hurdle._decisions

# What is replaced, by what, and in which states.
FAULTS = {
    "hurdle": ({s1_hurdle._decisions: lenient_decisions}, ("S1",)),
    "gamma": ({gamma_k: wide_gamma}, ("S2",)),
    "ptrs": ({_poisson_ptrs_k: printed_ptrs}, ("S2", "S4")),
    "rate": ({poisson_k: fast_poisson}, ("S4",)),
    "lanes": ({philox_block: swapped_block}, ("S1", "S2", "S4")),
}
TITLES = {"hurdle": "hurdle with u <= pi + 0.01", "gamma": "gamma shape + 5 %", "ptrs": "PTRS as printed", "rate": "lambda + 2 %", "lanes": "Philox lanes swapped"}
_ENTRIES = {"S1": (s1_hurdle, "_decisions"), "S2": (s2_attempts, "_draw_merchants"), "S4": (s4_sampler, "_draw_merchants")}


def variant(function: Dispatcher, replaced: dict, made: dict | None = None) -> Dispatcher:
    "A kernel that calls, at any depth, the replacements in the place of the replaced kernels; itself when it calls none of them."
    made = dict(replaced) if made is None else made
    if function not in made:
        code, names = function.py_func.__code__, function.py_func.__globals__
        inner = {name: names[name] for name in code.co_names if isinstance(names.get(name), Dispatcher)}
        other = {name: variant(called, replaced, made) for name, called in inner.items()}
        changed = any(other[name] is not inner[name] for name in inner)
        made[function] = numba.njit(nogil=True, error_model="numpy")(FunctionType(code, {**names, **other}, code.co_name)) if changed else function
    return made[function]


_compiled: dict[str, dict] = {}


@contextmanager
def installed(fault: str) -> Iterator[None]:
    "The states draw with the fault inside the block."
    replaced, states = FAULTS[fault]
    if fault not in _compiled:
        _compiled[fault] = {state: variant(getattr(*_ENTRIES[state]), replaced) for state in states}
    with ExitStack() as stack:
        for state, wrong in _compiled[fault].items():
            stack.enter_context(mock.patch.object(*_ENTRIES[state], wrong))
        yield
