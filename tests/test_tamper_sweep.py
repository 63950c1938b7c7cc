"""The tamper sweep: a finished run of 2 000 merchants with every lane of S3, changed in hundreds of ways.

Single bytes change, and the seal breaks. Rows change and everything that vouches for them is computed anew, so that the seal holds; then the
replay of the state has to notice.
"""

import json
import os
from copy import deepcopy
from functools import cache

import numpy as np
import pytest
from tamper_support import Edit, Forger, Lines, document_edits, field_edits, in_order, retraced, structure_edits, table_bytes, table_edits, table_of, with_cell

from seg1a.core import run as run_module
from seg1a.core.contracts import contracts
from seg1a.core.encoding import canonical_line, pretty_json
from seg1a.core.events import event_parts
from seg1a.core.gates import verify_bundle
from seg1a.core.run import Options
from seg1a.inputs.pack import build_pack, overlay_pack
from seg1a.operations.pipeline import RunRequest, run_pipeline
from seg1a.operations.validate import validate_run

SEED = 20_261_123
EVENT_STREAMS = ("hurdle_bernoulli", "gamma_component", "poisson_component_nb", "nb_final", "poisson_component_ztp", "ztp_rejection",
                 "ztp_retry_exhausted", "ztp_final")
S0_TABLES = ("crossborder_eligibility_flags", "hurdle_design_matrix", "hurdle_pi_probs")
S3_TABLES = ("s3_candidate_set", "s3_eligibility", "s3_base_weight_priors", "s3_integerised_counts", "s3_site_sequence")


@pytest.fixture(scope="session")
def forger(checkout, tmp_path_factory) -> Forger:
    """A run that passed, in which merchants of every kind occur: rejected, exhausted, short-circuited."""
    folder = tmp_path_factory.mktemp("tamper")
    policy = (checkout / "policies" / "policy.s4.hyperparams.yaml").read_text()
    scarce = policy.replace("theta0: -1.0", "theta0: -1.6").replace("MAX_ZTP_ZERO_ATTEMPTS: 64", "MAX_ZTP_ZERO_ATTEMPTS: 2")
    assert scarce.count("-1.6") == scarce.count("ATTEMPTS: 2 ") == 1
    build_pack(folder / "base", 2_000, checkout / "reference", checkout / "policies", "test")
    pack = overlay_pack(folder / "base", {"policy.s4.hyperparams.yaml": scarce.encode()}, folder / "pack")
    options = Options(s3_priors=True, s3_integerisation=True, s3_sequencing=True, notebooks=False)
    summary = run_pipeline(RunRequest(pack, folder / "out", 7, "ab" * 20, 1_750_000_000_123_456_789, options, workers=2))
    assert summary["gate"]["status"] == "PASS", summary["run"]["failure"]
    return Forger((folder / "out" / "latest").resolve(), pack)


parsed_once = cache(run_module.read_yaml)


@pytest.fixture(autouse=True)
def restored(forger, monkeypatch):
    """Every test finds the run as it was. Hundreds of forgeries need not reach the disk, and the policies, which nobody forges, are parsed once."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(run_module, "read_yaml", lambda *given: deepcopy(parsed_once(*given)))
    yield
    forger.restore()


# ---- single bytes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [90, pytest.param(2_000, marks=pytest.mark.slow)])
def test_every_changed_byte_breaks_the_seal(forger, changes):
    rng = np.random.default_rng(SEED)
    names = [name for name, data in forger.clean.items() if data and name.startswith(("parameter_scoped/", "logs/rng/", "validation_bundle/"))]
    assert verify_bundle(forger.root).passed and len(names) > 40
    weights = np.sqrt([len(forger.clean[name]) for name in names])
    chosen = names + [names[i] for i in rng.choice(len(names), changes - len(names), p=weights / weights.sum())]
    unseen = []
    for name in chosen:
        place, bits = int(rng.integers(len(forger.clean[name]))), int(rng.integers(1, 256))
        with open(forger.root / name, "r+b") as file:
            for change in (bits, 0):  # change the byte, then put it back
                file.seek(place)
                file.write(bytes([forger.clean[name][place] ^ change]))
                file.flush()
                if change and verify_bundle(forger.root).passed:
                    unseen.append((name, place, bits))
    assert not unseen and len(chosen) == changes and verify_bundle(forger.root).passed


# ---- rows, with everything rehashed -------------------------------------------------------------------------------------


def name_of(forger: Forger, dataset_id: str, **tokens) -> str:
    return forger.run.relative(forger.run.path(dataset_id, **tokens))


def lines_of(forger: Forger, name: str) -> Lines:
    return Lines(name, forger.clean[name])


def part_of(forger: Forger, stream_id: str) -> Lines:
    ((_, path),) = event_parts(forger.run, stream_id)
    return lines_of(forger, forger.run.relative(path))


def event_edits(forger: Forger, stream_id: str, rng) -> list[Edit]:
    """Every field of a stream, its structure, and a row that disappears together with its trace."""
    part, state, trace = part_of(forger, stream_id), contracts().streams()[stream_id].state, lines_of(forger, name_of(forger, "rng_trace_log"))
    i = int(rng.integers(len(part.lines)))
    gone = Edit(f"{stream_id}: row {i} lost, trace fitted", state, lambda: part.with_lines([*part.lines[:i], *part.lines[i + 1 :]]) | retraced(trace, part.row(i)))
    extra = canonical_line(part.row(i) | {"merchant_id": part.row(i)["merchant_id"] + 1})
    stranger = Edit(f"{stream_id}: a row of a merchant nobody knows", state, lambda: part.with_lines([*part.lines[: i + 1], extra, *part.lines[i + 1 :]]))
    odd_key = Edit(f"{stream_id}: a key of its own in row {i}", state, lambda: part.with_row(i, part.row(i) | {"note": "x"}))
    spaced = Edit(f"{stream_id}: row {i} in another notation", state, lambda: part.with_lines([*part.lines[:i], json.dumps(part.row(i)).encode() + b"\n", *part.lines[i + 1 :]]))
    return [*field_edits(part, state, rng, label=stream_id), *structure_edits(part, state, rng, stream_id), gone, stranger, odd_key, spaced]


def trace_edits(forger: Forger, rng) -> list[Edit]:
    """Every field of a row of every key, and the structure."""
    trace = lines_of(forger, name_of(forger, "rng_trace_log"))
    keys: dict[tuple[str, str], list[int]] = {}
    for index in range(len(trace.lines)):
        row = trace.row(index)
        keys.setdefault((row["module"], row["substream_label"]), []).append(index)
    states = {(s.module, s.label): s.state for s in contracts().streams().values()}
    assert keys.keys() == {(s.module, s.label) for s in contracts().streams().values()}
    edits = [edit for key, rows in sorted(keys.items()) for edit in field_edits(trace, states[key], rng, rows, f"trace of {key[1]}")]
    odd = structure_edits(trace, 1, rng, "trace")
    return edits + [Edit(edit.name, 4 if "last" in edit.name else 1, edit.change) for edit in odd]


def coherent_edits(forger: Forger) -> list[Edit]:
    """Stories that hang together: what follows from the change is changed too."""
    hurdle, finals, targets = (part_of(forger, stream) for stream in ("hurdle_bernoulli", "nb_final", "ztp_final"))
    poisson_nb, attempts = part_of(forger, "poisson_component_nb"), part_of(forger, "poisson_component_ztp")

    def single_is_multi() -> dict[str, bytes]:
        index = next(i for i in range(len(hurdle.lines)) if not hurdle.row(i)["is_multi"])
        name = name_of(forger, "s1_hurdle_catalogue")
        catalogue = json.loads(forger.clean[name])
        ids = sorted([*catalogue["multi_merchant_ids"], hurdle.row(index)["merchant_id"]])
        return hurdle.with_row(index, hurdle.row(index) | {"is_multi": True}) | {name: pretty_json(catalogue | {"multi_merchant_ids": ids})}

    def one_more_outlet() -> dict[str, bytes]:
        final = finals.row(5)
        index = max(i for i in range(len(poisson_nb.lines)) if poisson_nb.row(i)["merchant_id"] == final["merchant_id"])
        more = poisson_nb.row(index) | {"k": poisson_nb.row(index)["k"] + 1}
        return finals.with_row(5, final | {"n_outlets": final["n_outlets"] + 1}) | poisson_nb.with_row(index, more)

    def one_more_country() -> dict[str, bytes]:
        place = next(i for i in range(len(targets.lines)) if targets.row(i)["attempts"] == 1)
        target = targets.row(place)
        index = next(i for i in range(len(attempts.lines)) if attempts.row(i)["merchant_id"] == target["merchant_id"])
        more = attempts.row(index) | {"k": attempts.row(index)["k"] + 1}
        return targets.with_row(place, target | {"K_target": target["K_target"] + 1}) | attempts.with_row(index, more)

    return [Edit("a single becomes multi-site, catalogue fitted", 1, single_is_multi), Edit("one more outlet, components fitted", 2, one_more_outlet),
            Edit("one more country, attempt fitted", 4, one_more_country), *s3_stories(forger)]


def s3_stories(forger: Forger) -> list[Edit]:
    """Stories of S3: two candidates exchange ranks, an outlet moves abroad, a merchant disappears from all tables."""
    names = {dataset_id: name_of(forger, dataset_id) for dataset_id in S3_TABLES}
    tables = {dataset_id: table_of(forger.clean[name], dataset_id) for dataset_id, name in names.items()}

    def stored(**forged) -> dict[str, bytes]:
        return {names[d]: table_bytes(in_order(table, d), forger.clean[names[d]]) for d, table in forged.items()}

    def ranks_exchanged() -> dict[str, bytes]:
        rows = tables["s3_candidate_set"].to_pylist()
        first = next(i for i, row in enumerate(rows[:-1]) if row["candidate_rank"] and rows[i + 1]["candidate_rank"] and row["reason_codes"] == rows[i + 1]["reason_codes"])
        table = with_cell(tables["s3_candidate_set"], "country_iso", first, rows[first + 1]["country_iso"])
        return stored(s3_candidate_set=with_cell(table, "country_iso", first + 1, rows[first]["country_iso"]))

    def outlet_moves() -> dict[str, bytes]:
        counts, sites = tables["s3_integerised_counts"].to_pylist(), tables["s3_site_sequence"].to_pylist()
        i = next(i for i in range(len(counts) - 1) if counts[i]["count"] > 1 and counts[i + 1]["count"] and counts[i]["merchant_id"] == counts[i + 1]["merchant_id"])
        merchant, here, there = counts[i]["merchant_id"], counts[i], counts[i + 1]
        place = max(k for k, s in enumerate(sites) if (s["merchant_id"], s["country_iso"]) == (merchant, here["country_iso"]))
        sequence = tables["s3_site_sequence"]
        for column, value in (("country_iso", there["country_iso"]), ("site_order", there["count"] + 1), ("site_id", f"{there['count'] + 1:06d}")):
            sequence = with_cell(sequence, column, place, value)
        table = with_cell(with_cell(tables["s3_integerised_counts"], "count", i, here["count"] - 1), "count", i + 1, there["count"] + 1)
        return stored(s3_integerised_counts=table, s3_site_sequence=sequence)

    def merchant_gone() -> dict[str, bytes]:
        merchant = tables["s3_candidate_set"]["merchant_id"][100].as_py()
        return stored(**{d: table.filter(np.asarray(table["merchant_id"]) != merchant) for d, table in tables.items()})

    return [Edit("two candidates exchange ranks", 3, ranks_exchanged), Edit("an outlet moves, sites fitted", 3, outlet_moves),
            Edit("a merchant is gone from all tables", 3, merchant_gone)]


def edits_of(forger: Forger, group: str) -> list[Edit]:
    """The edits of a group; rows and values are random, and always the same."""
    rng = np.random.default_rng([SEED, *group.encode()])
    if group in EVENT_STREAMS:
        return event_edits(forger, group, rng)
    if group == "trace":
        return trace_edits(forger, rng)
    if group == "stories":
        return coherent_edits(forger)
    if group == "audit":
        return list(field_edits(lines_of(forger, name_of(forger, "rng_audit_log")), 0, rng, label="audit row"))
    if group == "catalogues":
        return [edit for state, d in ((1, "s1_hurdle_catalogue"), (2, "s2_nb_catalogue")) for edit in document_edits(name_of(forger, d), forger.clean[name_of(forger, d)], state, rng)]
    if group == "sidecars":
        names = [name_of(forger, f"{d}_manifest") for d in S3_TABLES]
        keys = sorted(json.loads(forger.clean[names[0]]))
        return [edit for i, key in enumerate(keys) for name in [names[i % 5]] for edit in document_edits(name, forger.clean[name], 3, rng, [key])]
    state = 0 if group in S0_TABLES else 3 if group in S3_TABLES else 4
    return list(table_edits(name_of(forger, group), forger.clean[name_of(forger, group)], state, rng))


GROUPS = (*EVENT_STREAMS, "trace", "audit", "stories", "catalogues", "sidecars", *S0_TABLES, *S3_TABLES, "merchant_abort_log")


def test_there_are_edits_of_everything(forger):
    edits = [edit for group in GROUPS for edit in edits_of(forger, group)]
    assert len(edits) >= 200 and {edit.state for edit in edits} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("step", [pytest.param(6, id="every sixth"), pytest.param(1, id="all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("group", GROUPS)
def test_every_forged_row_is_found_behind_a_seal_that_holds(forger, group, step, tmp_path):
    edits, missed = edits_of(forger, group), []
    for number, edit in enumerate(edits[len(group) % min(step, len(edits)) :: step]):
        forger.forge(edit.change())
        verdict = verify_bundle(forger.root)
        assert verdict.passed, (edit.name, verdict.problems)
        (report,) = validate_run(forger.root, forger.pack, [edit.state], workers=1, s4_output=tmp_path / str(number))
        codes = {finding.code for finding in report.findings}
        if report.passed or not codes or "E_VALIDATOR_STOPPED" in codes:
            missed.append((edit.name, sorted(codes)))
        forger.restore()
    assert not missed, "\n".join(map(str, missed))
