#!/usr/bin/env python3
"""Make the three generated files of policies/: the two coefficient files and the math profile.

    python tools/build_policies.py            write policies/
    python tools/build_policies.py --check    compare with policies/ instead

The coefficients are **not fitted to data**: the effects of each trade are chosen here, in thousandths, so that a development run shows what a
real one would (15 to 30 % multi-site merchants, a dozen outlets each, rejection corridors with room); single codes get a small effect of
their own from a hash of the code. Everything is integer arithmetic on thousandths, so the files are the same wherever this runs. The other
files of policies/ are written by hand.
"""
import argparse
import csv
import hashlib
import json
import sys
from pathlib import Path

from seg1a.core.encoding import canonical_json
from seg1a.core.reference import evaluate

ROOT = Path(__file__).resolve().parents[1]
SEMVER, VERSION = "1.0.0", "2025-11-03"

# trade: effect on the log odds of being multi-site, on ln(mean outlets), on ln(size of the negative binomial); all in thousandths
EFFECTS = {
    "agriculture": (-600, -400, -60), "contractors": (-700, -350, -40), "airlines": (1600, 700, 120), "car_rental_brands": (1800, 900, 140),
    "lodging_brands": (1700, 800, 120), "transport": (100, 200, 0), "utilities": (500, 500, 60), "wholesale": (100, -100, 0),
    "building_supply": (300, 50, 40), "general_stores": (800, 400, 60), "groceries": (600, 450, 80), "motoring": (500, 350, 80),
    "clothing": (500, 300, 40), "home_electronics": (200, -50, 20), "restaurants": (100, -50, 40), "digital_goods": (-800, -300, -40),
    "other_retail": (100, 0, 0), "direct_marketing": (-1000, -450, -60), "specialist_retail": (-200, -150, -20), "finance": (900, 600, 80),
    "property_lodging": (-100, 100, 0), "personal_services": (-400, -250, 0), "business_services": (-500, -150, -20), "repair": (-500, -250, 20),
    "leisure": (-100, -50, 0), "health": (-300, -150, 40), "professional": (-700, -250, -20), "government": (300, 350, 60)}
SPREAD = {"hurdle": 250, "mu": 250, "phi": 100}  # largest effect of a single code, either way, in thousandths

HURDLE_INTERCEPT, HURDLE_CHANNEL, HURDLE_BUCKET = -1350, {"CP": 100, "CNP": -350}, [-300, -100, 0, 100, 200]
MU_INTERCEPT, MU_CHANNEL = 2350, {"CP": 50, "CNP": -150}
PHI_INTERCEPT, PHI_CHANNEL, PHI_LN_GDP = 1150, {"CP": 0, "CNP": -50}, 55


def own_effect(kind, mcc):
    "A small effect of one code: a uniform integer of thousandths within SPREAD, from SHA-256 of its name."
    word = int.from_bytes(hashlib.sha256(f"seg1a|{kind}|{mcc:04d}".encode()).digest()[:8], "big")
    width = 2 * SPREAD[kind] + 1
    return (word * width >> 64) - SPREAD[kind]


def number(thousandths):
    "Thousandths as a YAML number: always with a point, so that every reader takes it for a float."
    sign, whole = "-" if thousandths < 0 else "", abs(thousandths)
    return f"{sign}{whole // 1000}.{whole % 1000:03d}"


def flow(items, width=12):
    "Lines of a YAML flow sequence, `width` items a line."
    return [", ".join(items[i:i + width]) + "," for i in range(0, len(items), width)]


def trades():
    "(trade, codes) in the order of the codes."
    groups = {}
    with open(ROOT / "reference" / "merchant_mix.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            groups.setdefault(row["group"], []).append(int(row["mcc"]))
    return list(groups.items())


def vector(name, kind, column, intercept, tail):
    "The lines of one coefficient list: intercept, one comment and block for each trade, then the tail of (comment, thousandths)."
    lines = [f"{name}:", "  [", "    # intercept", f"    {number(intercept)},"]
    for trade, codes in trades():
        lines.append(f"    # {trade}: MCC {codes[0]:04d} to {codes[-1]:04d}")
        lines += ["    " + row for row in flow([number(EFFECTS[trade][column] + own_effect(kind, c)) for c in codes])]
    for comment, values in tail:
        lines += [f"    # {comment}", "    " + ", ".join(number(v) for v in values) + ","]
    lines[-1] = lines[-1].rstrip(",")
    return lines + ["  ]"]


def head(title, *comments):
    text = [f"# {title}", *(f"# {c}" for c in comments), "# Made by tools/build_policies.py from effects chosen there; not fitted to data, so do not read",
            "# meaning into single numbers. The dictionaries are the column order of the design: frozen, never sorted by the engine."]
    return [*text, f'semver: "{SEMVER}"', f'version: "{VERSION}"']


def dictionaries(buckets):
    lines = ["dicts:", "  mcc:", "    ["]
    for trade, codes in trades():
        lines += [f"      # {trade}"] + ["      " + row for row in flow([str(c) for c in codes], 16)]
    lines[-1] = lines[-1].rstrip(",")
    lines += ["    ]", "  channel: [CP, CNP]"]
    return lines + (["  gdp_bucket: [1, 2, 3, 4, 5]"] if buckets else [])


def hurdle_coefficients():
    "Multi-site or not (logistic), and the mean number of outlets."
    channel = [("channel CP, CNP", list(HURDLE_CHANNEL.values())), ("income class 1 to 5", HURDLE_BUCKET)]
    mean = [("channel CP, CNP", list(MU_CHANNEL.values()))]
    return [*head("Hurdle model and outlet mean.", "beta: log odds of being multi-site = intercept + MCC + channel + income class.",
                  "beta_mu: ln(mean outlets) = intercept + MCC + channel; exp(2.35) is about 10 outlets."),
            'metadata: {source: "chosen effects in thousandths, see tools/build_policies.py"}', *dictionaries(True),
            *vector("beta", "hurdle", 0, HURDLE_INTERCEPT, channel), *vector("beta_mu", "mu", 1, MU_INTERCEPT, mean)]


def nb_dispersion_coefficients():
    "The size (dispersion) of the negative binomial."
    tail = [("channel CP, CNP", list(PHI_CHANNEL.values())), ("slope on ln(GDP a head): richer markets vary less", [PHI_LN_GDP])]
    return [*head("Dispersion of the outlet counts: variance = mu + mu^2 / phi.",
                  "beta_phi: ln(phi) = intercept + MCC + channel + slope * ln(GDP a head of the home country); phi is about 6.",
                  "gdp_observation_year: the year of the GDP rows that the engine takes; the shipped figures are of 2019.",
                  "s2_max_attempts: a merchant whose counts are rejected this often stops the run; far beyond anything a sane pack reaches."),
            "gdp_observation_year: 2019", "s2_max_attempts: 10000",
            'metadata: {source: "chosen effects in thousandths, see tools/build_policies.py"}', *dictionaries(False),
            *vector("beta_phi", "phi", 2, PHI_INTERCEPT, tail)]


def math_profile():
    """The manifest of the correctly rounded functions, with known answers.

    Arguments and values come from the known answers of the tests; those which the note there calls not portable are computed anew. All of
    them must agree with the exact reference functions, or nothing is written."""
    known = json.loads((ROOT / "tests" / "vectors" / "s0.json").read_text("utf-8"))["libm"]
    regression = []
    for case in known:
        value = evaluate(case["fn"], [float.fromhex(a) for a in case["args"]])
        if case["portable"] and value.hex() != case["value"]:
            raise SystemExit(f"{case['fn']}{case['args']}: {value.hex()}, known answer {case['value']}")
        regression.append({"fn": case["fn"], "args": case["args"], "value": value.hex()})
    profile = {"math_profile_id": "seg1a-cr-1", "vendor": "seg1a", "version": "1", "functions": sorted({c["fn"] for c in known}),
               "artifacts": [], "regression": regression}
    profile["checksum"] = hashlib.sha256(canonical_json(profile).encode("ascii")).hexdigest()
    return json.dumps(profile, sort_keys=True, indent=1) + "\n"


def files():
    "name -> text of everything that is made here."
    return {"hurdle_coefficients.yaml": "\n".join(hurdle_coefficients()) + "\n",
            "nb_dispersion_coefficients.yaml": "\n".join(nb_dispersion_coefficients()) + "\n",
            "math_profile_manifest.json": math_profile()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with policies/ instead of writing")
    args = parser.parse_args()
    home, made = ROOT / "policies", files()
    differ = [n for n, text in made.items() if not (home / n).is_file() or (home / n).read_text("utf-8") != text]
    if not args.check:
        for name in differ:
            (home / name).write_text(made[name], encoding="utf-8", newline="\n")
    print(f"{len(made)} files; {'differ' if args.check else 'written'}: {', '.join(differ) or 'none'}")
    return int(args.check and bool(differ))


if __name__ == "__main__":
    sys.exit(main())
