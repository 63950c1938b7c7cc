"""The shipped policies and reference tables: legal, consistent with each other, and giving the universe that they promise."""

import csv
import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from seg1a.core.encoding import canonical_json, read_yaml
from seg1a.inputs.snapshot import jenks_breaks, merchant_snapshot, snapshot_weights

CHECKOUT = Path(__file__).resolve().parent.parent
POLICIES, REFERENCE = CHECKOUT / "policies", CHECKOUT / "reference"


def policy(name: str) -> dict:
    """A policy file through the strict reader."""
    return read_yaml((POLICIES / name).read_bytes(), name)


def rows(name: str) -> list[dict]:
    """The rows of a reference table as texts."""
    with open(REFERENCE / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


COUNTRIES = frozenset(row["country_iso"] for row in rows("iso3166.csv"))
HURDLE, DISPERSION = policy("hurdle_coefficients.yaml"), policy("nb_dispersion_coefficients.yaml")


# ---- reference ------------------------------------------------------------------------------------------------------


def test_iso_table_has_249_countries():
    table = rows("iso3166.csv")
    assert len(table) == len(COUNTRIES) == len({row["alpha3"] for row in table}) == len({row["numeric_code"] for row in table}) == 249
    assert all(len(row["country_iso"]) == 2 and len(row["alpha3"]) == 3 and row["name"] for row in table)


def test_tables_agree_on_countries():
    gdp, bucket, population = ({row["country_iso"] for row in rows(n)} for n in ("gdp.csv", "gdp_bucket_map.csv", "population.csv"))
    assert gdp == bucket == population and gdp < COUNTRIES
    assert "AQ" not in gdp


def test_gdp_is_what_it_says():
    people = {row["country_iso"]: (int(row["gdp_million_usd"]), int(row["population"])) for row in rows("population.csv")}
    for row in rows("gdp.csv"):
        gdp, population = people[row["country_iso"]]
        assert abs(float(row["gdp_pc_usd_2015"]) - gdp * 1e6 / population) <= 0.00501
        assert row["observation_year"] == "2019" and "2019" in row["source_series"]


def test_income_classes_are_the_exact_breaks():
    breaks = jenks_breaks({row["country_iso"]: float(row["gdp_pc_usd_2015"]) for row in rows("gdp.csv")})
    assert {row["country_iso"]: int(row["bucket_id"]) for row in rows("gdp_bucket_map.csv")} == breaks.bucket
    assert set(breaks.bucket.values()) == {1, 2, 3, 4, 5}


def test_every_mcc_has_a_weight_and_a_coefficient():
    mccs = [int(row["mcc"]) for row in rows("mcc.csv")]
    assert len(mccs) == len(set(mccs)) > 900 and all(row["description"] for row in rows("mcc.csv"))
    assert [int(row["mcc"]) for row in rows("merchant_mix.csv")] == mccs == HURDLE["dicts"]["mcc"] == DISPERSION["dicts"]["mcc"]
    assert all(int(row["weight"]) > 0 for row in rows("merchant_mix.csv"))


def test_every_table_has_a_licence():
    stated = json.loads((REFERENCE / "sources.json").read_text())["licences"]
    text = (REFERENCE / "LICENCES.md").read_text()
    assert all(f"`{path.name}`" in text for path in REFERENCE.iterdir() if path.suffix in (".csv", ".json"))
    assert {"iso3166", "gdp", "gdp_bucket_map", "tz_world"} <= set(stated)


# ---- coefficients and governance ------------------------------------------------------------------------------------


def test_generated_policies_are_what_the_script_makes():
    done = subprocess.run([sys.executable, CHECKOUT / "tools" / "build_policies.py", "--check"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_policy_is_explained():
    text = (POLICIES / "README.md").read_text("utf-8")
    assert all(f"`{path.name}`" in text for path in POLICIES.iterdir() if path.suffix in (".yaml", ".json"))


def test_coefficient_shapes():
    mccs = len(HURDLE["dicts"]["mcc"])
    assert len(HURDLE["beta"]) == 1 + mccs + 2 + 5 and len(HURDLE["beta_mu"]) == 1 + mccs + 2 and len(DISPERSION["beta_phi"]) == 1 + mccs + 2 + 1
    assert all(type(b) is float and np.isfinite(b) for b in HURDLE["beta"] + HURDLE["beta_mu"] + DISPERSION["beta_phi"])
    assert HURDLE["dicts"]["channel"] == DISPERSION["dicts"]["channel"] == ["CP", "CNP"]
    assert HURDLE["dicts"]["gdp_bucket"] == [1, 2, 3, 4, 5] and DISPERSION["gdp_observation_year"] == 2019


def test_math_profile_is_sealed_and_complete():
    profile = json.loads((POLICIES / "math_profile_manifest.json").read_text())
    stated = profile.pop("checksum")
    assert hashlib.sha256(canonical_json(profile).encode("ascii")).hexdigest() == stated
    assert (profile["math_profile_id"], profile["vendor"]) == ("seg1a-cr-1", "seg1a")
    assert profile["functions"] == sorted(set(profile["functions"])) and {"cos", "exp", "lgamma", "log", "pow", "sqrt"} <= set(profile["functions"])
    assert {case["fn"] for case in profile["regression"]} == set(profile["functions"])


def test_math_profile_is_correctly_rounded():
    gmpy2 = pytest.importorskip("gmpy2")
    functions = {"log": gmpy2.log, "lgamma": lambda x: gmpy2.lgamma(x)[0], "pow": lambda x, y: gmpy2.mpfr(x) ** gmpy2.mpfr(y)}
    for case in json.loads((POLICIES / "math_profile_manifest.json").read_text())["regression"]:
        arguments = [float.fromhex(a) for a in case["args"]]
        with gmpy2.context(precision=200, emin=-5000, emax=5000) as _:
            value = functions.get(case["fn"], getattr(gmpy2, case["fn"], None))(*[gmpy2.mpfr(a) for a in arguments])
        assert float(value).hex() == float.fromhex(case["value"]).hex(), case


# ---- S0 eligibility and the S3 policies -----------------------------------------------------------------------------


def test_eligibility_block_names_known_countries_and_codes():
    block = policy("crossborder_hyperparams.yaml")["eligibility"]
    for rule in block["rules"]:
        assert rule["iso"] == "*" or COUNTRIES >= set(rule["iso"]) and len(set(rule["iso"])) == len(rule["iso"]), rule["id"]
        assert rule["mcc"] == "*" or all(isinstance(item, str) for item in rule["mcc"])
    assert {rule["decision"] for rule in block["rules"]} == {"allow", "deny"}
    assert len({rule["id"] for rule in block["rules"]}) == len(block["rules"]) >= 8


def test_ladder_uses_all_six_classes_and_both_kinds_of_rules():
    ladder = policy("policy.s3.rule_ladder.yaml")
    assert {rule["precedence"] for rule in ladder["rules"]} == set(ladder["precedence_order"]) and len(ladder["precedence_order"]) == 6
    assert {rule["is_decision_bearing"] for rule in ladder["rules"]} == {True, False}
    decided = {rule["outcome"].get("crossborder") for rule in ladder["rules"] if rule["precedence"] in ("CLASS", "LEGAL", "THRESHOLD")}
    assert {True, False} <= decided
    used = {tag for rule in ladder["rules"] for tag in (*rule["outcome"].get("tags", []), *rule["outcome"].get("row_tags", []))}
    assert used == set(ladder["filter_tags"]) - {"HOME"}
    named = {name for rule in ladder["rules"] for key in ("admit_named_sets", "deny_named_sets") for name in rule["outcome"].get(key, [])}
    words = {word.strip("()") for rule in ladder["rules"] for word in rule["predicate"].split()}
    assert set(ladder["named_sets"]) == named | words & set(ladder["named_sets"])


def test_s3_policies_pass_their_own_readers():
    s3 = pytest.importorskip("seg1a.states.s3_policies")
    files = {role: (POLICIES / name).read_bytes() for role, name in s3.POLICY_FILES.items()}
    loaded = s3.load_policies(files, COUNTRIES, s3.Lanes(True, True, True))
    assert loaded.ladder.rules and loaded.weights.rules


# ---- what the universe looks like -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def universe() -> dict:
    """A simulated run over the development snapshot, by NumPy: for shares and corridors only, no bit of it is sealed."""
    n, rng = 10_000, np.random.default_rng(5)
    table = pa.Table.from_batches(merchant_snapshot(n, snapshot_weights(REFERENCE)))
    place = {mcc: i for i, mcc in enumerate(HURDLE["dicts"]["mcc"])}
    mcc = np.array([place[m] for m in table["mcc"].to_pylist()])
    remote = np.array([c == "card_not_present" for c in table["channel"].to_pylist()], int)
    home = table["home_country_iso"].to_pylist()
    income = {row["country_iso"]: float(row["gdp_pc_usd_2015"]) for row in rows("gdp.csv")}
    bucket = {row["country_iso"]: int(row["bucket_id"]) for row in rows("gdp_bucket_map.csv")}
    beta, beta_mu, beta_phi = (np.array(b) for b in (HURDLE["beta"], HURDLE["beta_mu"], DISPERSION["beta_phi"]))
    k = len(place)
    eta = beta[0] + beta[1 + mcc] + beta[1 + k + remote] + beta[2 + k + np.array([bucket[h] for h in home])]
    pi = 1 / (1 + np.exp(-eta))
    multi = rng.random(n) < pi
    mu = np.exp(beta_mu[0] + beta_mu[1 + mcc] + beta_mu[1 + k + remote])[multi]
    phi = np.exp(beta_phi[0] + beta_phi[1 + mcc] + beta_phi[1 + k + remote] + beta_phi[-1] * np.log([income[h] for h in home]))[multi]
    outlets, rejections, todo = np.zeros(len(mu), int), np.zeros(len(mu), int), np.arange(len(mu))
    while len(todo):
        drawn = rng.poisson(mu[todo] / phi[todo] * rng.gamma(phi[todo]))
        outlets[todo] = drawn
        rejections[todo[drawn < 2]] += 1
        todo = todo[drawn < 2]
    facts = [np.array(x)[multi] for x in (table["mcc"].to_pylist(), remote, home)]
    return {"pi": pi, "multi": multi, "mu": mu, "phi": phi, "n": outlets, "r": rejections, "mcc": facts[0], "remote": facts[1], "home": facts[2]}


def test_multi_site_share(universe):
    assert 0.15 < universe["pi"].mean() < 0.30 and 0.15 < universe["multi"].mean() < 0.30
    assert 0 < universe["pi"].min() and universe["pi"].max() < 1


def test_corridors_have_room(universe):
    p = universe["phi"] / (universe["mu"] + universe["phi"])
    rejected = p ** universe["phi"] * (1 + universe["phi"] * (1 - p))
    limits = policy("validation_policy.yaml")["s2"]["corridors"]
    expected_rho = 1 - len(rejected) / (1 / (1 - rejected)).sum()
    assert expected_rho < limits["rho_reject_max"] / 2
    assert (rejected ** (limits["p99_max"] + 1)).mean() < 0.001  # one in a hundred would be at the limit
    rejections = np.sort(universe["r"])
    assert rejections.sum() / (rejections + 1).sum() < limits["rho_reject_max"] / 2
    assert rejections[(99 * len(rejections) + 99) // 100 - 1] <= 1


def test_link_reaches_both_poisson_regimes(universe):
    link = policy("policy.s4.hyperparams.yaml")
    lam = np.exp(link["ztp_link"]["theta0"] + link["ztp_link"]["theta1"] * np.log(universe["n"]) + link["ztp_link"]["theta2"] * link["X_default"])
    assert 0.02 < (lam >= 10).mean() < 0.5
    assert np.exp(-lam * link["ztp_controls"]["MAX_ZTP_ZERO_ATTEMPTS"]).sum() < 1e-6


def test_s3_admits_and_denies_visibly_and_always_integerises(universe):
    s3, merchant = pytest.importorskip("seg1a.states.s3_policies"), pytest.importorskip("seg1a.states.s3_merchant")
    files = {role: (POLICIES / name).read_bytes() for role, name in s3.POLICY_FILES.items()}
    loaded = s3.load_policies(files, COUNTRIES, s3.Lanes(True, True, True))
    decided, fired, sizes = Counter(), Counter(), []
    for i in range(len(universe["n"])):
        context = {"merchant_id": i + 1, "home_country_iso": str(universe["home"][i]), "mcc": int(universe["mcc"][i]),
                   "channel": "CNP" if universe["remote"][i] else "CP", "n_outlets": int(universe["n"][i])}
        outcome = merchant.evaluate(loaded, context)
        assert sum(outcome.split.count) == context["n_outlets"] and outcome.split.count[0] >= 1
        decided[outcome.decision.eligible] += 1
        fired.update(rule.rule_id for rule in outcome.decision.fired)
        sizes.append(len(outcome.rows))
    assert 0.3 < decided[True] / decided.total() < 0.9
    assert set(fired) == {rule.rule_id for rule in loaded.ladder.rules}
    assert min(sizes) == 1 and max(sizes) > 20
