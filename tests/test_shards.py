"""Shards: order, totals, the same failure, bounded work."""
import random
import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg1a.core.shards import SHARD, Shard, map_shards, scan_shards, shard_ranges, worker_count

WORKERS = [1, 2, 3, 8]


@given(st.integers(0, 40 * SHARD))
def test_ranges_tile_the_universe(n):
    shards = shard_ranges(n)
    assert [s.index for s in shards] == list(range(len(shards)))
    assert [s.start for s in shards] == [i * SHARD for i in range(len(shards))]
    assert [s.stop for s in shards] == [*(s.start for s in shards[1:]), *([n] if n else [])]
    assert all(0 < s.stop - s.start <= SHARD for s in shards)


@pytest.mark.parametrize("text, expected", [("1", 1), ("16", 16), ("0", None), ("-1", None), ("two", None), ("", None), ("²", None), ("1.5", None)])
def test_worker_count(monkeypatch, text, expected):
    monkeypatch.setenv("SEG1A_WORKERS", text)
    assert worker_count() == expected if expected else worker_count() >= 1


@pytest.mark.parametrize("workers", WORKERS)
def test_order(workers):
    def f(shard):
        time.sleep(random.uniform(0, 0.003))
        return shard.index

    assert list(map_shards(f, shard_ranges(50 * SHARD), workers)) == list(range(50))
    assert list(map_shards(f, [], workers)) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2**70), max_size=40), st.integers(1, 9))
def test_running_totals(totals, workers):
    done = scan_shards(lambda i: SimpleNamespace(totals=totals[i]), lambda i, part, before: (i, part.totals, before), range(len(totals)), workers, 0, int.__add__)
    assert list(done) == [(i, totals[i], sum(totals[:i])) for i in range(len(totals))]


def test_totals_of_any_kind():
    add = lambda before, totals: {key: before.get(key, 0) + totals.get(key, 0) for key in before.keys() | totals.keys()}
    done = scan_shards(lambda i: SimpleNamespace(totals={i % 2: 1}), lambda i, part, before: before, range(5), 3, {}, add)
    assert list(done) == [{}, {0: 1}, {0: 1, 1: 1}, {0: 2, 1: 1}, {0: 2, 1: 2}]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("compute_fails, finish_fails, expected", [
    ({4}, set(), (4, "compute")), (set(), {4}, (4, "finish")), ({4}, {4}, (4, "compute")), ({4, 1}, {2}, (1, "compute")), ({9}, {3}, (3, "finish")), ({0}, {0}, (0, "compute")),
])
def test_the_same_failure_for_every_number_of_workers(workers, compute_fails, finish_fails, expected):
    def compute(i):
        time.sleep(0.002 * (10 - i))  # later shards are ready first
        if i in compute_fails:
            raise LookupError(i, "compute")
        return SimpleNamespace(totals=1)

    def finish(i, part, before):
        if i in finish_fails:
            raise LookupError(i, "finish")
        return i

    taken = []
    with pytest.raises(LookupError) as caught:
        taken.extend(scan_shards(compute, finish, range(12), workers, 0, int.__add__))
    assert caught.value.args == expected
    results = scan_shards(compute, finish, range(12), workers, 0, int.__add__)
    assert [next(results) for _ in range(expected[0])] == list(range(expected[0]))
    with pytest.raises(LookupError):
        next(results)


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_no_thread_survives(workers):
    def failing(shard):
        raise LookupError(shard)

    for results in (map_shards(failing, range(9), workers), scan_shards(failing, None, range(9), workers, 0, int.__add__)):
        with pytest.raises(LookupError):
            next(results)
    results = map_shards(lambda shard: shard, range(100), workers)
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shard")]


@pytest.mark.parametrize("workers", [2, 4])
def test_work_ahead_is_bounded(workers):
    begun, taken = [], 0
    for _ in map_shards(begun.append, range(100), workers):
        taken += 1
        assert len(begun) <= taken + 2 * workers
    begun, taken = [], 0
    for _ in scan_shards(lambda i: begun.append(i) or SimpleNamespace(totals=0), lambda i, part, before: i, range(100), workers, 0, int.__add__):
        taken += 1
        assert len(begun) <= taken + 2 * workers


def test_shards_may_be_a_generator():
    assert list(map_shards(lambda s: s.start, (Shard(i, i, i) for i in range(5)), 2)) == list(range(5))
