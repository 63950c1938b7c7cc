"Philox blocks, counters, uniforms and substream keys against published answers, an independent package and hashlib."
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from randomgen import Philox

from seg1a.core.encoding import uer
from seg1a.core.errors import Seg1aError
from seg1a.core.philox import LARGEST_BELOW_ONE, counter_add, merchant_u64_array, philox_block, philox_blocks, substream_keys, substream_prefix, u01
from seg1a.core.sha256 import LANES, sha256_le64

u64 = st.integers(0, 2**64 - 1)
u128 = st.integers(0, 2**128 - 1)


def _split(counter):
    return np.uint64(counter >> 64), np.uint64(counter & 2**64 - 1)


# ---- the generator ---------------------------------------------------------------------------------------------

@settings(max_examples=300, deadline=None)
@given(key=u64, counter=u128)
def test_blocks_equal_those_of_an_independent_package(key, counter):
    # randomgen increments its counter before it makes a block, so it starts one step earlier
    other = Philox(key=key, counter=(counter - 1) % 2**128, number=2, width=64).random_raw(8)
    assert philox_blocks(key, counter >> 64, counter & 2**64 - 1, 4).ravel().tolist() == [int(w) for w in other]


@pytest.mark.parametrize("counter", [0, 1, 2**64 - 2, 2**64 - 1, 2**64, 2**127, 2**128 - 3, 2**128 - 1])
def test_blocks_at_the_borders_of_the_counter(counter):
    other = Philox(key=2**64 - 59, counter=(counter - 1) % 2**128, number=2, width=64).random_raw(8)
    assert philox_blocks(2**64 - 59, counter >> 64, counter & 2**64 - 1, 4).ravel().tolist() == [int(w) for w in other]


@settings(max_examples=300, deadline=None)
@given(counter=u128, blocks=st.integers(0, 2**63 - 1))
def test_counter_add_is_addition_modulo_2_128(counter, blocks):
    hi, lo = counter_add(*_split(counter), blocks)
    assert int(hi) << 64 | int(lo) == (counter + blocks) % 2**128


def test_a_word_changes_with_each_argument():
    base = philox_block(np.uint64(1), np.uint64(2), np.uint64(3))
    for other in ((0, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert philox_block(*map(np.uint64, other)) != base


# ---- uniforms --------------------------------------------------------------------------------------------------

@settings(max_examples=1000, deadline=None)
@given(x=u64)
def test_u01_converts_first_and_stays_inside(x):
    u = u01(np.uint64(x))
    assert u == min((float(x) + 1.0) * 2.0**-64, LARGEST_BELOW_ONE)
    assert 0.0 < u < 1.0


def test_u01_is_monotone_around_every_power_of_two():
    words = sorted({w for e in range(64) for d in range(-3, 4) if 0 <= (w := 2**e + d) < 2**64} | {2**64 - 1 - 512 * i for i in range(6)})
    values = [u01(np.uint64(w)) for w in words]
    assert values == sorted(values)
    assert values[0] == 2.0**-64 and values[-1] == LARGEST_BELOW_ONE


# ---- hashes ----------------------------------------------------------------------------------------------------

@settings(max_examples=300, deadline=None)
@given(prefix=st.binary(max_size=300), values=st.lists(u64, max_size=2 * LANES + 3))
def test_lane_digests_equal_hashlib(prefix, values):
    judge = b"".join(hashlib.sha256(prefix + v.to_bytes(8, "little")).digest() for v in values)
    assert sha256_le64(prefix, np.array(values, np.uint64)).astype(">u8").tobytes() == judge


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", ">i8", "uint64"])
def test_lane_digests_take_any_integer_type(dtype):
    assert (sha256_le64(b"p", np.array([0, 3, 100], dtype)) == sha256_le64(b"p", np.array([0, 3, 100]))).all()


def test_lane_digests_take_strided_rows():
    values = np.arange(200)
    assert (sha256_le64(b"p", values[::-3]) == sha256_le64(b"p", values[::-3].copy())).all()


@settings(max_examples=200, deadline=None)
@given(master=st.binary(min_size=32, max_size=32), label=st.text(max_size=40).filter(lambda t: t.isprintable()),
       ids=st.lists(st.integers(1, 2**63 - 1), min_size=1, max_size=20))
def test_substream_keys_by_the_definition(master, label, ids):
    keys, his, los = substream_keys(master, label, np.array(ids))
    for i, merchant_id in enumerate(ids):
        u = hashlib.sha256(merchant_id.to_bytes(8, "little")).digest()[24:32]  # LE64(LOW64(d)) is d[24:32] itself
        digest = hashlib.sha256(master + uer("mlr:1A") + uer(label) + u).digest()
        assert int(keys[i]) == int.from_bytes(digest[24:32], "little")
        assert (int(his[i]) << 64 | int(los[i])) == int.from_bytes(digest[16:32], "big")


def test_keys_of_a_part_are_the_part_of_the_keys():
    ids, master = np.arange(1, 101), bytes(range(32))
    whole = substream_keys(master, "gamma_nb", ids)
    for part in (slice(0, 1), slice(16, 33), slice(99, 100)):
        for x, y in zip(whole, substream_keys(master, "gamma_nb", ids[part]), strict=True):
            assert (x[part] == y).all()


@pytest.mark.parametrize("ids", [[0], [-1, 5], [2**63], [1.0], ["7"], [True], [[1, 2]]])
def test_what_is_no_merchant_id_is_refused(ids):
    with pytest.raises(Seg1aError) as refusal:
        merchant_u64_array(np.array(ids, np.uint64) if ids == [2**63] else np.array(ids))
    assert refusal.value.code == "E_SER_RANGE"


@pytest.mark.parametrize("master", [b"", bytes(31), bytes(33)])
def test_a_master_of_another_length_is_refused(master):
    with pytest.raises(Seg1aError) as refusal:
        substream_prefix(master, "gamma_nb")
    assert refusal.value.code == "E_SER_RANGE"


def test_hashes_of_other_merchants_are_refused():
    with pytest.raises(Seg1aError) as refusal:
        substream_keys(bytes(32), "gamma_nb", np.arange(1, 4), merchant_u64_array(np.arange(1, 3)))
    assert refusal.value.code == "E_SER_RANGE"
