"""Runs of the S4 vectors laid out as files, and what S4 left of them."""

import json
from pathlib import Path

import numpy as np

from seg1a.core.encoding import canonical_line
from seg1a.core.errors import Seg1aError
from seg1a.core.event_rows import event_parts, part_path
from seg1a.core.run import Lineage, Options, Run
from seg1a.states.s4_miniature import FACTS, merchant_facts, miniature_s4
from seg1a.states.s4_sampler import STREAMS
from seg1a.states.s4_ztp import run_s4

VECTORS = json.loads((Path(__file__).parent / "vectors" / "s4.json").read_text())
FAMILIES = dict(zip(("poisson_component", "ztp_rejection", "ztp_retry_exhausted", "ztp_final"), STREAMS))
START_NS = 1_700_000_000_123_456_789
MISSING = {"is_multi": -1, "is_eligible": -1, "n_outlets": 0, "home_rows": 0, "foreign_rows": 0, "x": np.nan}


def lineage_of(case: dict) -> Lineage:
    return Lineage(**case["lineage"], start_time_ns=START_NS)


def facts_of(case: dict) -> dict:
    """The columns of the merchants of a vector run; null means that the row is missing."""
    columns = {name: [MISSING[name] if m[name] is None else m[name] for m in case["merchants"]] for name in FACTS if name in MISSING}
    return merchant_facts([m["merchant_id"] for m in case["merchants"]], **columns)


def policy_of(case: dict) -> dict:
    p = case["policy"]
    return {"semver": "1.0.0", "version": "2025-11-03", "ztp_link": {k: float(p[k]) for k in ("theta0", "theta1", "theta2")},
            "ztp_controls": {k: p[k] for k in ("MAX_ZTP_ZERO_ATTEMPTS", "ztp_exhaustion_policy")}, "X_default": p["X_default"], "X_transform": p["X_transform"]}


def vector_run(folder: Path, case: dict, options: Options = Options(), workers: int = 1) -> Run:
    return miniature_s4(folder, lineage_of(case), facts_of(case), policy_of(case), options=options, workers=workers)


def completed(run: Run) -> str | None:
    """Run S4; None after a PASS, else the code it ended with."""
    try:
        run_s4(run)
    except Seg1aError as error:
        return error.code
    return None


def stream_rows(run: Run, family: str) -> list[dict]:
    """The rows of a family on disk, without ts_utc."""
    paths = [run.path("rng_trace_log")] if family == "rng_trace_log" else [path for _, path in event_parts(run, FAMILIES[family])]
    lines = [json.loads(line) for path in paths if path.exists() for line in path.read_bytes().splitlines()]
    return [{key: value for key, value in row.items() if key != "ts_utc"} for row in lines]


def rewrite(run: Run, family: str, rows: list[dict]) -> None:
    """Put these rows (without ts_utc) into the one part of a family."""
    path = run.path("rng_trace_log") if family == "rng_trace_log" else part_path(run, FAMILIES[family], 0)
    if rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(canonical_line(row | {"ts_utc": run.lineage.ts_utc}) for row in rows))
    else:
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
