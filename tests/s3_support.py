"""A run root as S0, S1 and S2 leave it for S3, made from columns: fixtures of the S3 tests."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from seg1a.core.encoding import canonical_line
from seg1a.core.events import write_event_part
from seg1a.core.gates import write_flag
from seg1a.core.run import Lineage, Options, Run
from seg1a.core.shards import shard_ranges
from seg1a.core.tables import table_of
from seg1a.states.s3_policies import POLICY_FILES, Lanes

SNAPSHOT, ISO_TABLE = "transaction_schema_merchant_ids.parquet", "iso3166.parquet"
CHANNELS = {"CP": "card_present", "CNP": "card_not_present"}
COUNTERS = ("rng_counter_before_hi", "rng_counter_before_lo", "rng_counter_after_hi", "rng_counter_after_lo", "blocks", "draws")


def _events(n: int, **columns) -> dict:
    zero = np.zeros(n, dtype=np.uint64)
    return {name: zero for name in COUNTERS} | columns


def _write_pack(pack: Path, world: list[str], snapshot: Mapping, files: Mapping[str, bytes]) -> list[dict]:
    pack.mkdir(parents=True)
    codes = {"country_iso": world, "alpha3": [f"{c}{c[0]}" for c in world], "numeric_code": list(range(len(world))), "name": world}
    nothing = dict.fromkeys(("region", "subregion", "start_date", "end_date"))
    pq.write_table(table_of("iso3166_canonical_2024", codes | nothing), pack / ISO_TABLE)
    pq.write_table(table_of("transaction_schema_merchant_ids", snapshot), pack / SNAPSHOT)
    for name, data in files.items():
        (pack / name).write_bytes(data)
    return [{"filename": f.name, "path": f.name, "size_bytes": f.stat().st_size, "sha256_hex": hashlib.sha256(f.read_bytes()).hexdigest()}
            for f in sorted(pack.iterdir())]


def make_run(folder: Path, world: list[str], columns: Mapping[str, np.ndarray], policies: Mapping[str, bytes | None], lanes: Lanes = Lanes(),
             parameter_hash: str = "a" * 64, manifest_fingerprint: str = "b" * 64, workers: int = 1, **options) -> Run:
    """A run of merchants given as columns: merchant_id, home_country_iso, mcc, channel (CP/CNP), n_outlets, is_multi.

    `policies`: role -> bytes. The pack lies in `folder/pack`, the run root is `folder/run`."""
    lineage = Lineage(seed=7, parameter_hash=parameter_hash, manifest_fingerprint=manifest_fingerprint, run_id="c" * 32, start_time_ns=1_700_000_000_000_000_000)
    flags = {"s3_priors": lanes.priors, "s3_integerisation": lanes.integerisation, "s3_sequencing": lanes.sequencing}
    run = Run(Path(folder) / "run", Path(folder) / "pack", lineage, Options(**flags, **options), "0" * 40, workers)
    snapshot = {"merchant_id": columns["merchant_id"], "mcc": columns["mcc"], "channel": [CHANNELS.get(c, c) for c in columns["channel"]],
                "home_country_iso": columns["home_country_iso"]}
    sealed = _write_pack(run.pack, world, snapshot, {POLICY_FILES[role]: data for role, data in policies.items() if data is not None})
    for state in range(3):
        run.state_bundle(state).mkdir(parents=True)
        (run.state_bundle(state) / "validation_summary.json").write_bytes(canonical_line({"version": f"1A.S{state}.validation.v1", "passed": True}))
    (run.state_bundle(0) / "fingerprint_artifacts.jsonl").write_bytes(b"".join(map(canonical_line, sealed)))
    for state in range(3):
        write_flag(run.state_bundle(state))
    _write_events(run, {name: np.asarray(values) for name, values in columns.items()})
    return run


def _write_events(run: Run, columns: Mapping[str, np.ndarray]) -> None:
    order = np.argsort(columns["merchant_id"], kind="stable")
    ids, multi, outlets = (columns[name][order] for name in ("merchant_id", "is_multi", "n_outlets"))
    multi = multi.astype(bool)
    for shard in shard_ranges(len(ids)):
        own = slice(shard.start, shard.stop)
        n, m = shard.stop - shard.start, int(multi[own].sum())
        write_event_part(run, "hurdle_bernoulli", shard.index, _events(n, merchant_id=ids[own].astype(np.int64), pi=np.full(n, 0.5), u=np.full(n, 0.25),
                                                                       is_multi=multi[own].astype(np.uint8), deterministic=np.zeros(n, np.uint8)))
        write_event_part(run, "nb_final", shard.index, _events(m, merchant_id=ids[own][multi[own]].astype(np.int64), mu=np.full(m, 5.0),
                                                               dispersion_k=np.full(m, 2.0), n_outlets=outlets[own][multi[own]].astype(np.uint64),
                                                               nb_rejections=np.zeros(m, np.uint64)))
