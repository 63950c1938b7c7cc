"""What the statistics of a run can tell, without the replay: a right sampler from a wrong one, and from which size on.

    python benchmarks/statistics_power.py --healthy [--sizes 300 3000 30000 300000] [--seeds 20]
    python benchmarks/statistics_power.py --wrong [hurdle gamma ptrs rate lanes] [--sizes 100 300 1000 ...] [--seeds 20]

Merchants have the categories of the shipped snapshot and the shipped coefficients and limits; sizes count merchants for S1, multi-site merchants for S2
and S4. Nothing is written to disk. Statistics: z_multi (S1), the three corridors, the mean and the mean square of the standardised counts (S2),
the nine corridors of S4. `--healthy` counts false alarms; it ends with status 1 when there is one. `--wrong` prints the share of seeds
in which a statistic speaks: a corridor that fails the run, or |z| > 6 for a published value.

Figures with 20 seeds a size. Healthy: no alarm in 15 statistics at 300, 3 000, 30 000 and 300 000. Wrong, the size from which all seeds speak (and the
size at which more than four in five do): hurdle 300 000 (100 000), gamma 30 000 (10 000), PTRS as printed 100 in S2 and 1 000 in S4 (300), lambda + 2 %
100 000 (30 000). Exchanged lanes are another stream of the same law: no statistic ever speaks, the replay does. The replay finds each at any size.
The fixed limit of the rejection rate is no test below some 150 multi-site merchants: with a right sampler it is passed by chance in 18 % of runs of
10, 15 % of 30, 0.5 % of 100 (200 seeds).
"""
import argparse
import csv
import hashlib
import math
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from wrong_samplers import FAULTS, TITLES, installed

from seg1a.core.encoding import read_yaml
from seg1a.core.exact import ln
from seg1a.inputs.snapshot import merchant_batch, snapshot_weights
from seg1a.states.s1_hurdle import Design, HurdleTally, compute_s1, hurdle_model
from seg1a.states.s2_attempts import Features, NbPart, compute_s2, nb_model
from seg1a.states.s2_corridors import corridor_policy, dispersion_metrics, evaluate_corridors
from seg1a.states.s4_corridors import evaluate_corridors as ztp_corridors
from seg1a.states.s4_corridors import load_limits
from seg1a.states.s4_policy import ZtpPolicy
from seg1a.states.s4_sampler import Scope, compute_s4

CHECKOUT = Path(__file__).resolve().parents[1]
SIGNAL = 6.0            # |z| of a published value that nobody would call chance
SIZES = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000)


@dataclass(frozen=True)
class World:
    "The shipped models and limits, and what the merchants are drawn from."
    hurdle: object
    nb: object
    ztp: ZtpPolicy
    corridors: object
    limits: object
    weights: object
    bucket: dict
    ln_gdp: dict


def _column(name: str, key: str, value: str, kind) -> dict:
    with open(CHECKOUT / "reference" / name, newline="") as file:
        return {row[key]: kind(row[value]) for row in csv.DictReader(file)}


@cache
def world() -> World:
    "Read once from the checkout."
    read = {name: read_yaml((CHECKOUT / "policies" / name).read_bytes(), name) for name in (
        "hurdle_coefficients.yaml", "nb_dispersion_coefficients.yaml", "policy.s4.hyperparams.yaml", "validation_policy.yaml")}
    hurdle, dispersion, four, limits = read.values()
    link, controls = four["ztp_link"], four["ztp_controls"]
    return World(hurdle_model(hurdle), nb_model(hurdle, dispersion),
                 ZtpPolicy(four["semver"], four["version"], link["theta0"], link["theta1"], link["theta2"], controls["MAX_ZTP_ZERO_ATTEMPTS"]),
                 corridor_policy(limits["s2"]), load_limits(limits["s4"]), snapshot_weights(CHECKOUT / "reference"),
                 _column("gdp_bucket_map.csv", "country_iso", "bucket_id", int), _column("gdp.csv", "country_iso", "gdp_pc_usd_2015", lambda v: ln(float(v))))


def merchants(n: int, seed: int) -> tuple[Design, np.ndarray]:
    "The design of n merchants of a snapshot, and the logarithm of their GDP per capita float64[n]."
    w = world()
    table = merchant_batch(n, seed, w.weights, 0, n)
    lookup = np.zeros(10_000, np.int64)
    lookup[list(w.hurdle.mcc)] = np.arange(len(w.hurdle.mcc))
    homes, where = np.unique(table["home_country_iso"].to_numpy(zero_copy_only=False), return_inverse=True)
    channel = (table["channel"].to_numpy(zero_copy_only=False) == "card_not_present").astype(np.int64)
    bucket, gdp = np.array([w.bucket[h] for h in homes]) - 1, np.array([w.ln_gdp[h] for h in homes])
    return Design(table["merchant_id"].to_numpy(), lookup[table["mcc"].to_numpy()], channel, bucket[where]), gdp[where]


def master_of(seed: int) -> bytes:
    "Master material of a simulated run."
    return hashlib.sha256(b"statistics_power" + seed.to_bytes(8, "big")).digest()


def hurdle_statistics(n: int, seed: int) -> dict[str, bool]:
    "Which statistics of S1 speak against n merchants."
    tally = HurdleTally()
    tally.add(compute_s1(merchants(n, seed)[0], world().hurdle, master_of(seed)))
    z = tally.metrics()["z_multi"]
    return {"z_multi": z is not None and abs(z) > SIGNAL}


def outlets(n: int, seed: int) -> NbPart:
    "S2 on n multi-site merchants."
    design, ln_gdp = merchants(n, seed)
    return compute_s2(Features(design.merchant_id, design.mcc_index, design.channel_index, ln_gdp), world().nb, master_of(seed))


def nb_statistics(part: NbPart) -> dict[str, bool]:
    "Which statistics of S2 speak: the corridors, and mean and mean square of the standardised counts."
    final = {name: column.astype(np.float64 if name in ("mu", "dispersion_k") else np.int64) for name, column in part.final.items() }
    at = final["merchant_id"], final["mu"], final["dispersion_k"]
    breaches = evaluate_corridors(world().corridors, *at, final["nb_rejections"]).breaches
    spread = dispersion_metrics(*at, final["n_outlets"])
    n = spread["n"]
    # The square of a standardised negative binomial count has the variance 2 + 6/phi + 1/Var N; the truncation below two changes little.
    _, mu, phi = at
    error = math.sqrt(float(np.mean(2.0 + 6.0 / phi + 1.0 / (mu + mu * mu / phi))) / n)
    return {name: name in breaches for name in ("rho", "p99", "cusum")} | {
        "mean_z": abs(spread["mean_z"]) * math.sqrt(n) > SIGNAL, "dispersion": abs(spread["pearson_dispersion"] - 1.0) / error > SIGNAL}


def ztp_statistics(n: int, seed: int, n_outlets: np.ndarray) -> dict[str, bool]:
    "Which corridors of S4 fail for merchants with these outlets int64[n] and random openness."
    ids = merchants(n, seed)[0].merchant_id
    x = np.random.default_rng(seed).random(n)
    part = compute_s4(Scope(ids, n_outlets, x, np.ones(n, np.int64)), world().ztp, master_of(seed))
    return {row["name"]: row["status"] == "fail" for row in ztp_corridors(part.merchants, world().ztp.cap, world().limits)}


def speaking(states: tuple[str, ...], n: int, seed: int, fault: str | None = None) -> dict[str, bool]:
    "All statistics of the states (`S1 z_multi`, ...) of one simulated run; with a fault, each state draws with it and is fed rightly."
    def drawn(call, *arguments):
        if fault is None:
            return call(*arguments)
        with installed(fault):
            return call(*arguments)

    out = {}
    if "S1" in states:
        out["S1"] = drawn(hurdle_statistics, n, seed)
    if "S2" in states:
        out["S2"] = nb_statistics(drawn(outlets, n, seed))
    if "S4" in states:
        counts = outlets(n, seed)
        mine = np.full(n, 2, np.int64)
        mine[: counts.final["n_outlets"].size] = counts.final["n_outlets"].astype(np.int64)
        out["S4"] = drawn(ztp_statistics, n, seed, mine)
    return {f"{state} {name}": speaks for state, names in out.items() for name, speaks in names.items()}


def shares(states: tuple[str, ...], n: int, seeds: int, fault: str | None = None) -> dict[str, int]:
    "In how many of the seeds each statistic speaks, and `any` of them."
    total: dict[str, int] = {}
    for seed in range(1, seeds + 1):
        found = speaking(states, n, seed, fault)
        for name, speaks in (found | {"any": any(found.values())}).items():
            total[name] = total.get(name, 0) + speaks
    return total


def healthy(sizes: list[int], seeds: int) -> int:
    "Print the false alarms of right samplers; their number."
    alarms = 0
    for n in sizes:
        start = time.perf_counter()
        found = shares(("S1", "S2", "S4"), n, seeds)
        alarms += found["any"]
        which = ", ".join(f"{name} {count}" for name, count in found.items() if count and name != "any") or "none"
        spent = time.perf_counter() - start
        print(f"{n:>9,} merchants, {seeds} seeds: {found['any']} with an alarm ({which}) of {len(found) - 1} statistics  [{spent:.0f} s]", flush=True)
    return alarms


def wrong(faults: list[str], sizes: list[int], seeds: int) -> None:
    "Print, fault by fault, the share of seeds in which each statistic speaks, and the smallest size at which one does in all."
    for fault in faults:
        for state in FAULTS[fault][1]:
            print(f"{TITLES[fault]}, {state}")
            for n in sizes:
                found = shares((state,), n, seeds, fault)
                which = ", ".join(f"{name} {count}" for name, count in found.items() if count and name != "any") or "none"
                print(f"{n:>9,} merchants: {found['any']:>2} of {seeds} ({which})", flush=True)
                if found["any"] == seeds:
                    break


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--healthy", action="store_true")
    parser.add_argument("--wrong", nargs="*", choices=FAULTS)
    parser.add_argument("--sizes", nargs="+", type=int)
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    if options.wrong is not None:
        wrong(options.wrong or list(FAULTS), options.sizes or list(SIZES), options.seeds)
    return 1 if options.healthy and healthy(options.sizes or [300, 3_000, 30_000, 300_000], options.seeds) else 0


if __name__ == "__main__":
    sys.exit(main())
