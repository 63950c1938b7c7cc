"""Properties of the eligibility rules: a million decisions are the same as one at a time, and the order of the list never counts."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from seg1a.states.s0_eligibility import CHANNELS, decide, decide_many, eligibility_policy

ISOS = ["DE", "GB", "IN", "US"]
MCCS = (0, 742, 4829, 5411, 6010, 6011, 6012, 7995, 9999)

mcc_items = st.one_of(st.sampled_from(MCCS).map("{:04d}".format), st.tuples(st.sampled_from(MCCS), st.sampled_from(MCCS)).map(lambda pair: "{:04d}-{:04d}".format(*sorted(pair))))


def members(items):
    return st.one_of(st.just("*"), st.just(["*"]), st.lists(items, min_size=1, max_size=4))


rules = st.lists(
    st.fixed_dictionaries({"id": st.text("abcXYZ_", min_size=1, max_size=3), "priority": st.integers(0, 3), "decision": st.sampled_from(["allow", "deny"]),
                           "mcc": members(mcc_items), "channel": members(st.sampled_from(CHANNELS)), "iso": members(st.sampled_from(ISOS))}),
    max_size=6, unique_by=lambda rule: rule["id"])  # fmt: skip
merchants = st.lists(st.tuples(st.sampled_from(MCCS), st.integers(0, 1), st.integers(0, len(ISOS) - 1)), min_size=1, max_size=40)


def policy_of(entries, default):
    return eligibility_policy({"rule_set_id": "any", "default_decision": default, "rules": entries}, frozenset(ISOS))


@settings(max_examples=150, deadline=None)
@given(rules, st.sampled_from(["allow", "deny"]), merchants)
def test_decide_many_equals_decide(entries, default, people):
    policy = policy_of(entries, default)
    mcc, channel, home = (np.array(column) for column in zip(*people))
    eligible, index, reasons = decide_many(policy, mcc.astype(np.int16), channel.astype(np.int8), home.astype(np.int16), ISOS)
    assert reasons == sorted(set(reasons)) and eligible.dtype == bool
    for i, (m, c, h) in enumerate(people):
        assert decide(policy, m, CHANNELS[c], ISOS[h]) == (bool(eligible[i]), reasons[index[i]])


@settings(max_examples=100, deadline=None)
@given(rules, merchants, st.randoms())
def test_order_of_the_list_does_not_count(entries, people, shuffle):
    other = entries[:]
    shuffle.shuffle(other)
    for m, c, h in people:
        assert decide(policy_of(entries, "deny"), m, CHANNELS[c], ISOS[h]) == decide(policy_of(other, "deny"), m, CHANNELS[c], ISOS[h])


@settings(max_examples=100, deadline=None)
@given(rules, merchants)
def test_a_matching_denial_is_never_overruled(entries, people):
    policy = policy_of(entries, "allow")
    for m, c, h in people:
        matching = [rule for rule in policy.rules if rule.matches(m, CHANNELS[c], ISOS[h])]
        flag, reason = decide(policy, m, CHANNELS[c], ISOS[h])
        assert flag == (not any(rule.decision == "deny" for rule in matching))
        assert reason == "default_allow" if not matching else reason in {rule.id for rule in matching}


@settings(max_examples=60, deadline=None)
@given(rules, merchants)
def test_a_rule_that_matches_nobody_changes_nothing(entries, people):
    absent = {"id": "nobody", "priority": 0, "decision": "deny", "mcc": ["1234"], "channel": "*", "iso": "*"}
    for m, c, h in people:
        assert decide(policy_of(entries, "deny"), m, CHANNELS[c], ISOS[h]) == decide(policy_of([absent, *entries], "deny"), m, CHANNELS[c], ISOS[h])
