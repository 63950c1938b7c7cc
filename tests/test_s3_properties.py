"""State S3: properties on random policies and merchants, and hostile texts."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from test_vectors_s3 import FIELDS

from seg1a.core.encoding import canonical_line
from seg1a.core.errors import Seg1aError
from seg1a.core.run import Lineage
from seg1a.states.s3_classes import domain_of, plan_merchants
from seg1a.states.s3_compare import sample_faults
from seg1a.states.s3_integerise import integerise, integerise_many
from seg1a.states.s3_ladder import load_ladder
from seg1a.states.s3_merchant import diagnostics, eligibility_row, evaluate, table_rows
from seg1a.states.s3_policies import Lanes, load_base_weights, load_bounds, load_policies, load_thresholds
from seg1a.states.s3_predicates import Scope, parse_predicate
from seg1a.states.s3_tables import Content, Diagnostics, Flat, expand

WORLD = [a + b for a in "ABCD" for b in "EFGHJ"]
HEAD = {"semver": "1.0.0", "version": "2025-01-01"}
LINEAGE = Lineage(1, "a" * 64, "b" * 64, "c" * 32, 0)
OWN = {"parameter_hash": "a" * 64, "produced_by_fingerprint": "b" * 64}


def atom(rng: random.Random, candidate: bool) -> str:
    atoms = [lambda: f"N {rng.choice(['<', '>=', '==', '!='])} {rng.randrange(2, 30)}", lambda: f"mcc in {{{rng.randrange(3)}, \"000{rng.randrange(3)}\"}}",
             lambda: f"channel == \"{rng.choice(['CP', 'card_not_present'])}\"", lambda: f"home_country_iso {rng.choice(['<', '>='])} \"{rng.choice(WORLD)}\"",
             lambda: f"home_country_iso {rng.choice(['in', 'not in'])} {rng.choice(['S0', 'S1'])}", lambda: f"merchant_id <= {rng.randrange(900)}", lambda: "merchant_id > N"]
    if candidate:
        atoms += [lambda: "is_home", lambda: f"candidate_rank {rng.choice(['<', '>'])} {rng.randrange(6)}", lambda: "candidate_rank < N",
                  lambda: f"country_iso in {rng.choice(['S0', 'S1'])}", lambda: "\"T1\" in filter_tags", lambda: "country_iso < home_country_iso"]
    return rng.choice(atoms)()


def predicate(rng: random.Random, candidate: bool = False) -> str:
    parts = [("not " if rng.random() < 0.3 else "") + atom(rng, candidate) for _ in range(rng.randrange(1, 4))]
    return f" {rng.choice(['and', 'or', '&&', '||'])} ".join(parts)


def random_ladder(rng: random.Random, rules: int) -> dict:
    order = ["DENY", "ALLOW", *rng.sample(["CLASS", "LEGAL", "THRESHOLD"], 3), "DEFAULT"]
    made = [{"rule_id": "Z", "precedence": "DEFAULT", "priority": 0, "is_decision_bearing": True, "predicate": "true",
             "outcome": {"reason_code": "Z", "crossborder": rng.random() < 0.5}}]
    for i in range(rules):
        kind, decides = rng.choice(order[:5]), rng.random() < 0.5
        outcome = {"reason_code": f"R{i}", "tags": rng.sample(["T0", "T1", "T2"], rng.randrange(3))}
        if decides and kind not in ("DENY", "ALLOW"):
            outcome["crossborder"] = rng.random() < 0.7
        if kind != "DENY" and rng.random() < 0.7:
            outcome |= {"admit_countries": rng.sample(WORLD, rng.randrange(1, 6)), "row_tags": rng.sample(["T0", "T1", "T2"], rng.randrange(3))}
        if rng.random() < 0.4:
            outcome |= {"deny_countries": rng.sample(WORLD, rng.randrange(1, 4)), "deny_named_sets": rng.sample(["S0", "S1"], rng.randrange(2))}
        made.append({"rule_id": f"RL_{i}", "precedence": kind, "priority": rng.randrange(3), "is_decision_bearing": decides, "predicate": predicate(rng), "outcome": outcome})
    return HEAD | {"precedence_order": order, "reason_codes": ["Z", *(f"R{i}" for i in range(rules))], "filter_tags": ["HOME", "T0", "T1", "T2"],
                   "named_sets": {"S0": {"countries": WORLD[:3]}, "S1": {"countries": WORLD[8:12]}},
                   "reason_code_map": {"Z": ["Z"], **{f"R{i}": [f"RL_{i}"] for i in range(rules)}}, "rules": made}


def random_weights(rng: random.Random) -> dict:
    constants = {f"c{i}": round(rng.random() * 3, rng.randrange(1, 5)) for i in range(4)}
    rules = [{"id": f"W{i}", "predicate": predicate(rng, candidate=True), "score_components": rng.choices(sorted(constants), k=rng.randrange(4))} for i in range(4)]
    return HEAD | {"dp": rng.randrange(7), "constants": constants, "sets": {"S0": WORLD[1:4], "S1": WORLD[6:9]}, "selection_rules": rules}


def random_merchants(rng: random.Random, n: int) -> list[dict]:
    ids = sorted(rng.sample(range(1, 1000), n))
    return [{"merchant_id": i, "home_country_iso": rng.choice(WORLD), "mcc": rng.randrange(4), "channel": rng.choice(["CP", "CNP"]), "n_outlets": rng.randrange(2, 30)} for i in ids]


def planned(files: dict, lanes: Lanes, merchants: list[dict]):
    policies = load_policies({role: json.dumps(obj).encode() for role, obj in files.items()}, WORLD, lanes)
    domain, refused = domain_of(*([m[f] for m in merchants] for f in FIELDS), policies.countries)
    assert not refused
    return plan_merchants(policies, domain)


@pytest.mark.parametrize("seed", range(30))
def test_column_code_equals_scalar_code(seed):
    rng = random.Random(seed)
    bounds = HEAD | {"default_upper": rng.choice([6, 12, 999999]), "overrides": {WORLD[0]: 2}}
    thresholds = HEAD | {"home_floor": rng.randrange(2), "floors": {WORLD[2]: 1}, "ceilings": {WORLD[5]: 3, WORLD[6]: None}, "dp_resid": rng.randrange(10)}
    files = {"rule_ladder": random_ladder(rng, rng.randrange(1, 75)), "base_weight": random_weights(rng), "thresholds": thresholds, "bounds": bounds}
    lanes, merchants = Lanes(rng.random() < 0.7, True, True), random_merchants(rng, 60)
    plan = planned(files, lanes, merchants)
    rows, lines, failed = {}, [], {}
    for merchant in merchants:
        try:
            outcome = evaluate(plan.policies, merchant)
        except Seg1aError as error:
            failed[merchant["merchant_id"]] = error.code
            continue
        lines.append(diagnostics(plan.policies, merchant, outcome))
        more = table_rows(plan.policies, merchant["merchant_id"], outcome) | {"s3_eligibility": [eligibility_row(merchant["merchant_id"], outcome.decision)]}
        for dataset_id, own in more.items():
            rows.setdefault(dataset_id, []).extend(row | OWN for row in own)
    assert {i: e.code for i, e in plan.failures().items()} == failed
    flat = Flat(plan)
    for dataset_id, expected in rows.items():
        assert expand(flat, dataset_id, plan.kept(0, 60), LINEAGE, plain=True).to_pylist() == expected
        assert expand(flat, dataset_id, plan.kept(0, 60), LINEAGE).to_pylist() == expected
        assert b"".join(map(bytes, Content(flat, dataset_id, LINEAGE).blocks(0, 60, merchants=7))) == b"".join(map(canonical_line, expected))
        assert flat.rows(dataset_id) == len(expected)
    assert b"".join(map(bytes, Diagnostics(plan).blocks(0, 60, merchants=11))) == b"".join(map(canonical_line, lines))


@pytest.mark.parametrize("seed", range(10))
def test_order_in_the_file_means_nothing(seed):
    rng = random.Random(1000 + seed)
    ladder, merchants = random_ladder(rng, 12), random_merchants(rng, 40)
    plan = planned({"rule_ladder": ladder}, Lanes(), merchants)
    shuffled = ladder | {"rules": rng.sample(ladder["rules"], 13), "filter_tags": ["T2", "HOME", "T0", "T1"], "reason_codes": rng.sample(ladder["reason_codes"], 13)}
    other = planned({"rule_ladder": shuffled}, Lanes(), merchants)
    for dataset_id in ("s3_candidate_set", "s3_eligibility"):
        assert Content(Flat(plan), dataset_id, LINEAGE).sha256() == Content(Flat(other), dataset_id, LINEAGE).sha256()


@pytest.mark.parametrize("seed", range(10))
def test_one_more_denied_country_only_removes_its_row(seed):
    rng = random.Random(2000 + seed)
    ladder, merchants, gone = random_ladder(rng, 10), random_merchants(rng, 60), rng.choice(WORLD)
    stricter = json.loads(json.dumps(ladder))
    stricter["rules"][0]["outcome"]["deny_countries"] = [gone]
    before, after = (planned({"rule_ladder": x}, Lanes(), merchants) for x in (ladder, stricter))
    for i in range(60):
        one, two = before.outcome(before.profile[i]).rows, after.outcome(after.profile[i]).rows
        kept = [(c.country_iso, c.reason_codes, c.filter_tags) for c in one if c.is_home or c.country_iso != gone]
        assert kept == [(c.country_iso, c.reason_codes, c.filter_tags) for c in two] and [c.candidate_rank for c in two] == list(range(len(two)))


def brute_force(countries, weights, n, upper):
    "Hamilton without floors, by fractions: floors of the ideals, then the largest remainders with capacity, round by round."
    from fractions import Fraction

    count = [0] * len(countries)
    while True:
        open_rows = [i for i, c in enumerate(count) if c < upper[i]]
        left, total = n - sum(count), sum(weights[i] for i in open_rows)
        ideal = {i: Fraction(left * weights[i], total) for i in open_rows}
        for i in open_rows:
            count[i] += min(int(ideal[i]), upper[i] - count[i])
        left, still = n - sum(count), [i for i in open_rows if count[i] < upper[i]]
        if left <= len(still):
            for i in sorted(still, key=lambda i: (-round((ideal[i] % 1) * 10**8), countries[i], i))[:left]:
                count[i] += 1
            return tuple(count)


@pytest.mark.parametrize("seed", range(200))
def test_integerise_equals_fractions(seed):
    rng = random.Random(seed)
    m, n = rng.randrange(1, 12), rng.randrange(2, 300)
    countries, weights = rng.sample(WORLD, m), [rng.randrange(1, 10**rng.randrange(1, 16)) for _ in range(m)]
    upper = [rng.choice([n, n, rng.randrange(1, n)]) for _ in range(m)]
    if sum(upper) >= n:
        assert integerise(countries, weights, n, [0] * m, upper).count == brute_force(countries, weights, n, upper)


@pytest.mark.parametrize("seed", range(20))
def test_many_splits_equal_one_by_one(seed):
    """Also where 64 bits do not do, and where a split fails: then the scalar method decides."""
    rng, profiles = random.Random(seed), []
    dp_resid, top = rng.choice([0, 3, 8, 18]), rng.choice([3, 10**5, 2**53 - 1])
    for _ in range(150):
        m = rng.randrange(1, 12)
        lower = [rng.randrange(3) for _ in range(m)]
        upper = [rng.choice([999999, low + rng.randrange(0, 9)]) for low in lower]
        profiles.append((rng.sample(range(249), m), [rng.choice([0, 1, rng.randrange(top + 1), top]) for _ in range(m)], lower, upper, rng.choice([2, 40, 10**6])))
    country, weight, lower, upper = (np.array([x for p in profiles for x in p[i]], dtype=np.int64) for i in range(4))
    length = np.array([len(p[0]) for p in profiles])
    many = integerise_many(np.array([p[4] for p in profiles]), np.cumsum(length) - length, length, country, weight, lower, upper, dp_resid)
    for i, (names, weights, low, high, n) in enumerate(profiles):
        try:
            assert many.one(i, len(names)) == integerise(names, weights, n, low, high, dp_resid) and i not in many.failures
        except Seg1aError as error:
            assert (many.failures[i].code, many.failures[i].message, many.failures[i].detail) == (error.code, error.message, error.detail)
    assert 0 < len(many.failures) < len(profiles)


def altered(values: np.ndarray) -> np.ndarray:
    return values + (np.arange(len(values)) == 0).astype(values.dtype)


def test_the_second_opinion_sees_a_fault_of_the_column_code():
    rng = random.Random(5)
    files = {"rule_ladder": random_ladder(rng, 20), "base_weight": random_weights(rng)}
    plan = planned(files, Lanes(True, True, True), random_merchants(rng, 60))
    assert sample_faults(Flat(plan)) == {}
    score = plan.classes.score.copy()
    score[score.argmax()] += 1
    faults = [replace(plan, classes=replace(plan.classes, rank=altered(plan.classes.rank))), replace(plan, classes=replace(plan.classes, score=score)),
              replace(plan, classes=replace(plan.classes, country=plan.classes.country[::-1].copy())),
              *(replace(plan, splits=replace(plan.splits, **{name: altered(getattr(plan.splits, name))})) for name in ("count", "residual_rank", "bumped", "rounds"))]
    for fault in faults:
        found = sample_faults(Flat(fault))
        assert found and {(f.check, f.code) for f in found.values()} == {("C1", "ERR_S3_CANDIDATE_CONSTRUCTION")}


PIECES = ["N", "mcc", "channel", "home_country_iso", "and", "or", "not", "in", "(", ")", "{", "}", ",", "==", "<", ">=", "&&", "||", "5", "-3", '"AE"', "'CP'", "S0",
          "true", "false", "is_home", " ", "\t", "é", "\\", '"', "0742", "1e3", "[", "=", "merchant_id", "\0", "10**9"]


@pytest.mark.parametrize("seed", range(20))
def test_hostile_predicates_are_refused_or_total(seed):
    rng, scope = random.Random(seed), Scope(frozenset(WORLD), {"S0": frozenset(WORLD[:3])})
    context = {"merchant_id": 1, "home_country_iso": "AE", "mcc": 5, "channel": "CP", "n_outlets": 9}
    columns = {"merchant_id": np.array([1]), "home_country_iso": np.array([16709]), "mcc": np.array([5]), "channel": np.array([0]), "n_outlets": np.array([9])}
    for _ in range(400):
        text = rng.choice(["", " "]).join(rng.choices(PIECES, k=rng.randrange(1, 12)))
        try:
            parsed = parse_predicate(text, scope)
        except Seg1aError as error:
            assert error.code == "ERR_S3_RULE_EVAL_DOMAIN"
        else:
            assert parsed.mask(columns, 1).tolist() == [parsed.holds(context)]


VALUES = [None, True, 0, -1, 1.5, "", "x", "DENY", [], [None], {}, {"a": 1}, ["AE"], ["XX"], 10**30, "true", [[]], {"countries": 5}]


def mutated(rng: random.Random, obj):
    "A copy with one random node replaced or removed."
    obj = json.loads(json.dumps(obj))
    at = obj
    while True:
        key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
        if isinstance(at[key], (dict, list)) and at[key] and rng.random() < 0.75:
            at = at[key]
            continue
        if rng.random() < 0.2:
            del at[key]
        else:
            at[key] = rng.choice(VALUES)
        return obj


@pytest.mark.parametrize("role", ["rule_ladder", "base_weight", "thresholds", "bounds"])
def test_damaged_policies_are_refused_with_a_code(role):
    rng = random.Random(role)
    files = {"rule_ladder": random_ladder(rng, 8), "base_weight": random_weights(rng), "thresholds": HEAD | {"home_floor": 1, "floors": {"AE": 1}, "ceilings": {"AE": 4, "AF": None}},
             "bounds": HEAD | {"default_upper": 50, "overrides": {"AE": 5}}}
    world, tags = frozenset(WORLD), ("HOME", "T0", "T1", "T2")
    load = {"rule_ladder": lambda obj: load_ladder(obj, world), "base_weight": lambda obj: load_base_weights(obj, world, tags),
            "thresholds": lambda obj: load_thresholds(obj, world), "bounds": lambda obj: load_bounds(obj, world)}[role]
    load(files[role])
    for _ in range(600):
        try:
            load(mutated(rng, files[role]))
        except Seg1aError as error:
            assert error.code.startswith("ERR_S3_")
