"""Known answers of the flag (vectors s0.json, `gate`)."""
import json
from pathlib import Path

import pytest

from seg1a.core.flags import directory_digest, flag_text, folder_files, verify_flag, write_flag

VECTORS = json.loads((Path(__file__).parent / "vectors" / "s0.json").read_text())["gate"]
CASES = VECTORS if isinstance(VECTORS, list) else [VECTORS]


@pytest.mark.parametrize("case", CASES)
def test_vectors_gate(tmp_path, case):
    for name, text in case["files"].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    assert [name for name in folder_files(tmp_path) if not name.endswith("_passed.flag")] == case["order"]
    assert directory_digest(tmp_path) == case["sha256_hex"]
    assert flag_text(case["sha256_hex"]) == case["flag_text"]
    (tmp_path / "index.json").unlink(missing_ok=True)
    for name in list(case["files"]):
        if name.endswith("_passed.flag") and (tmp_path / name).exists():
            (tmp_path / name).unlink()
    digest = write_flag(tmp_path)
    assert verify_flag(tmp_path) == digest and (tmp_path / "_passed.flag").read_bytes() == flag_text(digest).encode()
