"Known answers of the random-number law: Philox, counters, uniforms, keys and samplers; compiled kernels and reference twin alike, bit for bit."
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from seg1a.core import lineage, reference_samplers, samplers
from seg1a.core.encoding import uer
from seg1a.core.philox import counter_add, merchant_u64_array, philox_block, substream_keys, u01

VECTORS = Path(__file__).parent / "vectors"
S0, S12, S4 = (json.loads((VECTORS / f"{name}.json").read_text("utf-8")) for name in ("s0", "s1_s2", "s4"))


def word(text) -> int:
    "A u64 of the vectors: hexadecimal text or a JSON integer."
    return int(text, 16) if isinstance(text, str) else text


def number(value):
    "A float of the vectors as C99 hex, or an integer as it stands."
    return float.fromhex(value) if isinstance(value, str) else value


def bits(value) -> str:
    return float(value).hex() if isinstance(value, float) else str(value)


def cases(rows):
    return pytest.mark.parametrize("case", rows, ids=lambda row: "-".join(str(v)[:20] for v in list(row.values())[:3] if not isinstance(v, (list, dict))))


# ---- generator, counter, uniform -------------------------------------------------------------------------------

BLOCKS = [(c["key"], c["ctr_hi"], c["ctr_lo"], c["x0"], c["x1"]) for c in S0["philox"] + S12["philox2x64_10"]]
BLOCKS += [(c["key"], c["counter_hi"], c["counter_lo"], c["x0"], c["x1"]) for c in S4["philox_kat"]]


@pytest.mark.parametrize("key, hi, lo, x0, x1", [tuple(map(word, row)) for row in BLOCKS])
def test_philox(key, hi, lo, x0, x1):
    assert philox_block(np.uint64(key), np.uint64(hi), np.uint64(lo)) == (x0, x1)
    assert reference_samplers.block(key, hi << 64 | lo) == (x0, x1)


@cases(S0["counter_add"])
def test_counter_add(case):
    after = counter_add(np.uint64(word(case["hi"])), np.uint64(word(case["lo"])), case["n"])
    assert after == (word(case["hi2"]), word(case["lo2"]))
    twin = reference_samplers.Substream(0, word(case["hi"]), word(case["lo"]))
    twin.blocks += case["n"]
    assert twin.position == after


@pytest.mark.parametrize("x, u", [(word(c["x"]), c.get("u") or c["u_hex"]) for c in S0["u01"] + S12["u01"] + S4["u01"]])
def test_u01(x, u):
    assert u01(np.uint64(x)) == reference_samplers.uniform(x) == float.fromhex(u)


def test_u01_is_not_the_integer_addition():
    told_apart = [c for c in S0["u01"] if c["u"] != c["u_if_added_as_integer"]]
    assert told_apart
    assert all(u01(np.uint64(word(c["x"]))).hex() != c["u_if_added_as_integer"] for c in told_apart)


@cases(S4["carry"])
def test_carry(case):
    key, hi, lo = (np.uint64(case[k]) for k in ("key", "counter_hi", "counter_lo"))
    twin = reference_samplers.Substream(case["key"], case["counter_hi"], case["counter_lo"])
    for i in range(0, len(case["u_hex"]), 2):
        assert [u.hex() for u in samplers.uniform2_k(key, hi, lo)] == case["u_hex"][i:i + 2] == [u.hex() for u in twin.uniform2()]
        hi, lo = map(np.uint64, counter_add(hi, lo, 1))
    assert (hi, lo) == (case["after_hi"], case["after_lo"]) == twin.position


# ---- keys ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("merchant_id, u64", [(c["merchant_id"], word(c.get("u64") or c.get("merchant_u64"))) for c in S0["merchant_u64"] + S12["merchant_u64"] + S4["substreams"]])
def test_merchant_u64(merchant_id, u64):
    assert merchant_u64_array(np.array([merchant_id])).tolist() == [u64] == [lineage.merchant_u64(merchant_id)]


@cases(S0["master"])
def test_master(case):
    master = lineage.master_material(case["parameter_hash"], word(case["seed"]))
    assert master.hex() == case["M"]
    assert lineage.root_key_counter(master) == tuple(word(case[k]) for k in ("root_key", "root_ctr_hi", "root_ctr_lo"))


MASTERS = {word(c["seed"]): bytes.fromhex(c["M"]) for c in S0["master"]}


def both_addresses(master, label, merchant_id):
    "Key and counter by the kernel and by the twin, as integers; they must agree."
    lanes = tuple(int(column[0]) for column in substream_keys(master, label, np.array([merchant_id])))
    twin = reference_samplers.substream(master, label, merchant_id)
    assert lanes == (twin.key, *twin.position)
    return lanes


@cases(S0["substream"])
def test_substream_s0(case):
    master = MASTERS[word(case["seed"])]
    expected = tuple(word(case[k]) for k in ("key", "ctr_hi", "ctr_lo"))
    if "iso" in case:
        twin = reference_samplers.substream(master, case["label"], case["merchant_id"], ("iso", case["iso"]))
        assert (twin.key, *twin.position) == expected
    else:
        assert both_addresses(master, case["label"], case["merchant_id"]) == expected
    key, hi, lo = map(np.uint64, expected)
    for name in ("first_block", "second_block"):
        if name in case:
            assert list(philox_block(key, hi, lo)) == [word(x) for x in case[name]]
            hi, lo = map(np.uint64, counter_add(hi, lo, 1))


@cases(S12["substream"])
def test_substream_s1_s2(case):
    master = lineage.master_material(case["parameter_hash"], case["seed"])
    assert both_addresses(master, case["label"], case["merchant_id"]) == tuple(word(case[k]) for k in ("key", "ctr_hi", "ctr_lo"))
    message = uer("mlr:1A") + uer(case["label"]) + lineage.merchant_u64(case["merchant_id"]).to_bytes(8, "little")
    assert message.hex() == case["msg"]
    assert int.from_bytes(hashlib.sha256(master + message).digest()[24:32], "little") == word(case["key"])


@cases(S4["substreams"])
def test_substream_s4(case):
    master = lineage.master_material(case["parameter_hash"], case["seed"])
    assert master.hex() == case["master_hex"]
    address = both_addresses(master, S4["constants"]["substream_label"], case["merchant_id"])
    assert address == (case["key"], case["counter_hi"], case["counter_lo"])
    assert list(philox_block(*map(np.uint64, address))) == case["block0"]
    twin = reference_samplers.Substream(*address)
    uniforms = [twin.uniform1(), *twin.uniform2(), twin.uniform1()]
    assert [u.hex() for u in uniforms] == case["uniforms_one_two_one_hex"]
    assert (twin.blocks, twin.draws) == (case["blocks"], case["draws"])
    key, hi, lo = map(np.uint64, address)
    kernel_uniforms = [samplers.uniform1_k(key, hi, lo)]
    hi, lo = map(np.uint64, counter_add(hi, lo, 1))
    kernel_uniforms += samplers.uniform2_k(key, hi, lo)
    hi, lo = map(np.uint64, counter_add(hi, lo, 1))
    assert kernel_uniforms + [samplers.uniform1_k(key, hi, lo)] == uniforms


# ---- variates --------------------------------------------------------------------------------------------------

def kernel_event(kind, parameter, key, hi, lo):
    "(value, blocks, draws) of one event by the compiled kernels."
    position = np.uint64(key), np.uint64(hi), np.uint64(lo)
    if kind == "gamma":
        return samplers.gamma_k(parameter, *position)[:3]
    if kind == "poisson":
        return samplers.poisson_k(parameter, *position)
    sampler, draws = {"uniform1": (samplers.uniform1_k, 1), "normal": (samplers.normal_k, 2), "gumbel": (samplers.gumbel_k, 1)}[kind]
    return sampler(*position), 1, draws


def twin_event(kind, parameter, twin):
    value = getattr(twin, kind)() if parameter is None else getattr(twin, kind)(parameter)
    return value, *twin.interval()[4:]


@pytest.mark.parametrize("kind, case", [(kind, case) for kind in ("uniform1", "normal", "gamma", "poisson", "gumbel") for case in S0[kind]],
                         ids=lambda v: v if isinstance(v, str) else f"{v['merchant_id']}-{v['param']}")
def test_events_s0(kind, case):
    address = {(c["label"], c["merchant_id"]): word(c["key"]) for c in S0["substream"] if "iso" not in c}
    iso = {(c["label"], c["merchant_id"], word(c["ctr_hi"])): word(c["key"]) for c in S0["substream"] if "iso" in c}
    hi, lo = (word(x) for x in case["seq"][0]["before"])
    key = iso.get((case["label"], case["merchant_id"], hi)) or address.get((case["label"], case["merchant_id"]))
    if key is None:  # a stream that the section of substreams does not list
        key = int.from_bytes(lo.to_bytes(8, "big"), "little")
    parameter = None if case["param"] is None else float.fromhex(case["param"])
    twin = reference_samplers.Substream(key, hi, lo)
    for event in case["seq"]:
        assert [word(x) for x in event["before"]] == [hi, lo]
        value, blocks, draws = kernel_event(kind, parameter, key, hi, lo)
        assert (bits(value), blocks, str(draws)) == (bits(number(event["value"])), event["blocks"], event["draws"])
        assert (value, blocks, draws) == twin_event(kind, parameter, twin)
        hi, lo = map(int, counter_add(np.uint64(hi), np.uint64(lo), blocks))
        assert [word(x) for x in event["after"]] == [hi, lo] == list(twin.position)


def check_sequence(kind, parameter, key, hi, lo, expected):
    "Successive variates of one stream against rows (value, blocks, draws), by kernels, sequences and twin."
    twin = reference_samplers.Substream(key, hi, lo)
    sequence = samplers.gamma_sequence if kind == "gamma" else samplers.poisson_sequence
    at_once = sequence(parameter, key, hi, lo, len(expected))
    for i, row in enumerate(expected):
        event = kernel_event(kind, parameter, key, hi, lo)
        assert (bits(event[0]), *map(int, event[1:])) == (bits(row[0]), *row[1:])
        assert event == twin_event(kind, parameter, twin) == tuple(at_once[i])[:3]
        hi, lo = map(int, counter_add(np.uint64(hi), np.uint64(lo), event[1]))
    return at_once


def stream_start(case):
    return word(case["key"]), word(case["ctr_hi"]), word(case["ctr_lo"])


def test_box_muller_s1_s2():
    case = S12["box_muller"]
    key, hi, lo = stream_start(case)
    twin = reference_samplers.Substream(key, hi, lo)
    for z in case["z"]:
        assert samplers.normal_k(np.uint64(key), np.uint64(hi), np.uint64(lo)).hex() == z == twin.normal().hex()
        hi, lo = map(int, counter_add(np.uint64(hi), np.uint64(lo), 1))
    assert (twin.blocks, twin.draws) == (case["blocks"], case["draws"])


@cases(S12["gamma"])
def test_gamma_s1_s2(case):
    expected = [(float.fromhex(e["gamma_value"]), e["blocks"], int(e["draws"])) for e in case["seq"]]
    drawn = check_sequence("gamma", float.fromhex(case["alpha"]), *stream_start(case), expected)
    assert drawn["passes"].tolist() == [e["J"] for e in case["seq"]] and drawn["tests"].tolist() == [e["A"] for e in case["seq"]]


@cases(S12["poisson"])
def test_poisson_s1_s2(case):
    lam = float.fromhex(case["lambda"])
    assert (lam < samplers.PTRS_FROM) == (case["regime"] == "inversion")
    check_sequence("poisson", lam, *stream_start(case), [(e["k"], e["blocks"], int(e["draws"])) for e in case["seq"]])


@cases(S4["poisson"])
def test_poisson_s4(case):
    lam = float.fromhex(case["lambda_hex"])
    assert lam == case["lambda"] and (lam < samplers.PTRS_FROM) == (case["regime"] == "inversion")
    address = both_addresses(lineage.master_material(case["parameter_hash"], case["seed"]), S4["constants"]["substream_label"], case["merchant_id"])
    check_sequence("poisson", lam, *address, [tuple(row) for row in case["k_blocks_draws"]])
    if "b_a_invalpha_vr_hex" in case:
        a, b, inv_alpha, v_r = samplers.ptrs_constants(lam)
        assert [x.hex() for x in (b, a, inv_alpha, v_r)] == case["b_a_invalpha_vr_hex"]


@cases(S4["regime"])
def test_regime_s4(case):
    _, blocks, draws = samplers.poisson_k(case["lambda"], np.uint64(1), np.uint64(2), np.uint64(3))
    assert draws == (blocks if case["regime"] == "inversion" else 2 * blocks)
    assert samplers.PTRS_FROM == S4["constants"]["regime_split"]
    assert math.isfinite(case["lambda"])
