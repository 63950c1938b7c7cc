"""State S3 against the known answers of tests/vectors/s3.json (all but `tamper`).

Every case is read from the file; another file of the same shape may be put in its place."""

import copy
import hashlib
import json
from pathlib import Path

import pytest

from seg1a.core.errors import Seg1aError
from seg1a.core.run import Lineage
from seg1a.states.s3_classes import domain_of, plan_merchants
from seg1a.states.s3_integerise import integerise
from seg1a.states.s3_merchant import diagnostics, evaluate, table_rows, tables_of
from seg1a.states.s3_policies import Lanes, fixed_text, load_policies, quantise
from seg1a.states.s3_predicates import Scope, parse_predicate
from seg1a.states.s3_tables import Content, Diagnostics, Flat, expand, metrics_of

KNOWN = json.loads((Path(__file__).parent / "vectors" / "s3.json").read_text())
WORLD = sorted(KNOWN["iso_universe"])
FIELDS = ("merchant_id", "home_country_iso", "mcc", "channel", "n_outlets")


def labels(items: list[dict]) -> list[str]:
    return [str(item.get("id", f"{i}:{item.get('expr', item.get('components', ''))}")) for i, item in enumerate(items)]


def policy_bytes(name: str | None) -> bytes | None:
    return None if name is None else json.dumps(KNOWN["policies"][name]).encode()


def scope_of(case: dict) -> Scope:
    policy, ladder = KNOWN["policies"][case["sets_from"]], case["scope"] == "rule_ladder"
    sets = {k: frozenset(v["countries"]) for k, v in policy["named_sets"].items()} if ladder else {k: frozenset(v) for k, v in policy.get("sets", {}).items()}
    code = "ERR_S3_RULE_EVAL_DOMAIN" if ladder else "ERR_S3_WEIGHT_CONFIG"
    return Scope(frozenset(WORLD), sets, frozenset(case["tags"]), candidate=not ladder, code=code)


@pytest.mark.parametrize("case", KNOWN["dsl"], ids=labels(KNOWN["dsl"]))
def test_dsl(case):
    if isinstance(case["expected"], str):
        with pytest.raises(Seg1aError) as refused:
            parse_predicate(case["expr"], scope_of(case))
        assert refused.value.code == case["expected"]
        return
    predicate = parse_predicate(case["expr"], scope_of(case))
    assert [predicate.holds(context) for context in case["contexts"]] == case["expected"]


@pytest.mark.parametrize("case", KNOWN["quantise"], ids=labels(KNOWN["quantise"]))
def test_quantise(case):
    k = quantise(case["components"], case["dp"])
    assert {"k": k, "text": fixed_text(k, case["dp"])} == case["expected"]


@pytest.mark.parametrize("case", KNOWN["integerise"], ids=labels(KNOWN["integerise"]))
def test_integerise(case):
    arguments = case["iso"], case["weights"], case["N"], case["L"], case["U"], case.get("dp_resid", 8)
    if isinstance(case["expected"], str):
        with pytest.raises(Seg1aError) as refused:
            integerise(*arguments)
        assert refused.value.code == case["expected"]
        return
    split = integerise(*arguments)
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in vars(split).items()} == case["expected"]


def bulk(tag: str, count: int, homes: list[str], mccs: list[int], n_span: int) -> list[dict]:
    "The synthetic merchants of a bulk case."
    merchants, homes = [], homes or WORLD
    for i in range(count):
        h = hashlib.sha256(f"s3-bulk|{tag}|{i}".encode("ascii")).digest()
        merchants.append({"merchant_id": 1 + (int.from_bytes(h[0:8], "big") >> 2), "home_country_iso": homes[int.from_bytes(h[8:10], "big") % len(homes)],
                          "mcc": mccs[int.from_bytes(h[10:12], "big") % len(mccs)], "channel": "CNP" if h[12] & 1 else "CP",
                          "n_outlets": 2 + int.from_bytes(h[13:15], "big") % n_span, "is_multi": True})
    return merchants


def merchants_of(case: dict) -> list[dict]:
    every = bulk(**case["bulk"]) if "bulk" in case else case["merchants"]
    return sorted((m for m in every if m["is_multi"]), key=lambda m: m["merchant_id"])


def policies_of(case: dict):
    return load_policies({role: policy_bytes(name) for role, name in case["policies"].items()}, WORLD, Lanes(**case["toggles"]))


@pytest.mark.parametrize("case", KNOWN["cases"], ids=labels(KNOWN["cases"]))
def test_case_by_columns(case):
    policies, merchants = policies_of(case), merchants_of(case)
    domain, refused = domain_of(*([m[field] for m in merchants] for field in FIELDS), policies.countries)
    plan = plan_merchants(policies, domain)
    failed = refused | plan.failures()
    lineage = Lineage(0, case["parameter_hash"], case["manifest_fingerprint"], "0" * 32, 0)
    expected, flat, kept = case["expected"], Flat(plan), plan.kept(0, len(domain))
    assert {str(i): e.code for i, e in failed.items()} == expected["failed_merchants"]
    assert {d: expand(flat, d, kept, lineage).num_rows for d in tables_of(policies.lanes)} == expected["row_counts"]
    digests = {d: Content(flat, d, lineage).sha256() for d in tables_of(policies.lanes)}
    assert digests == expected["content_sha256"]
    lines = Diagnostics(plan)
    assert hashlib.sha256(b"".join(map(bytes, lines.blocks(0, len(domain))))).hexdigest() == expected["diagnostics_sha256"]
    assert metrics_of(lines, len(failed)) == expected["metrics"]
    for dataset_id, rows in expected.get("tables", {}).items():
        got = expand(flat, dataset_id, kept, lineage, plain=True).drop_columns(["parameter_hash", "produced_by_fingerprint"]).to_pylist()
        assert got == rows


@pytest.mark.parametrize("case", [c for c in KNOWN["cases"] if "merchants" in c], ids=labels([c for c in KNOWN["cases"] if "merchants" in c]))
def test_case_by_merchant(case):
    policies, tables, lines, failed = policies_of(case), {d: [] for d in case["expected"]["row_counts"]}, [], {}
    for merchant in merchants_of(case):
        try:
            outcome = evaluate(policies, merchant)
        except Seg1aError as error:
            failed[str(merchant["merchant_id"])] = error.code
            continue
        lines.append(diagnostics(policies, merchant, outcome))
        for dataset_id, rows in table_rows(policies, merchant["merchant_id"], outcome).items():
            tables[dataset_id] += rows
    assert failed == case["expected"]["failed_merchants"]
    assert lines == case["expected"]["diagnostics"]
    assert {d: len(rows) for d, rows in tables.items()} == case["expected"]["row_counts"]
    assert {d: tables[d] for d in case["expected"]["tables"]} == case["expected"]["tables"]


def patched(policy: dict, patch: list) -> dict:
    "A policy with changes at given paths; an index equal to the length appends."
    policy = copy.deepcopy(policy)
    for path, value in patch:
        at = policy
        for step in path[:-1]:
            at = at[step]
        if value == "__del__":
            del at[path[-1]]
        elif isinstance(at, list) and path[-1] == len(at):
            at.append(value)
        else:
            at[path[-1]] = value
    return policy


@pytest.mark.parametrize("case", KNOWN["policy_errors"], ids=labels(KNOWN["policy_errors"]))
def test_policy_error(case):
    files = {role: policy_bytes(name) for role, name in case["policies"].items()}
    if case["patch"]:
        files[case["target"]] = json.dumps(patched(KNOWN["policies"][case["policies"][case["target"]]], case["patch"])).encode()
    if case["expected"] is None:
        load_policies(files, WORLD, Lanes(**case["toggles"]))
        return
    with pytest.raises(Seg1aError) as refused:
        load_policies(files, WORLD, Lanes(**case["toggles"]))
    assert (refused.value.code, refused.value.scope.upper()) == (case["expected"]["code"], case["expected"]["scope"])
