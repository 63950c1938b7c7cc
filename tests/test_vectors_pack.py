"""Known answers of the pack's checksums and of the income classes; every case is read from the file of vectors."""

import hashlib
import json
from pathlib import Path

import pytest

from seg1a.inputs.manifest import checksums_text
from seg1a.inputs.snapshot import jenks_breaks

VECTORS = json.loads((Path(__file__).parent / "vectors" / "s0.json").read_text("utf-8"))


def cases(section: str) -> list[dict]:
    """The cases of a section, which may hold one or many."""
    return VECTORS[section] if isinstance(VECTORS[section], list) else [VECTORS[section]]


@pytest.mark.parametrize("case", cases("pack"))
def test_vectors_pack_checksums(case):
    files = VECTORS["lineage"]["param_files"] | VECTORS["lineage"]["other_artefacts"]
    digests = [(path, hashlib.sha256(files[path.rpartition("/")[2]].encode("utf-8")).hexdigest()) for path in case["paths"]]
    for order in (digests, digests[::-1]):
        text = checksums_text(order)
        assert text == case["checksums_text"]
        assert hashlib.sha256(text.encode("ascii")).hexdigest() == case["checksums_sha256"]


@pytest.mark.parametrize("case", cases("jenks"))
def test_vectors_jenks(case):
    breaks = jenks_breaks({iso: float(value) for iso, value in case["gdp"].items()})
    assert breaks.bucket == case["bucket"]
    assert list(breaks.cuts) == case["cuts"] and list(breaks.tau) == case["tau"]
