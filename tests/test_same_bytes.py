"""One run, many machines: the sealed bytes are the same for any number of workers, either way to the disk, and any set of CPU instructions."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from run_support import FLAGS, LANES, run_root, sealed_files

# Kernels compiled for no CPU in particular lie in a cache of their own, made once for a state of the sources; C library without AVX2 and FMA, under
# the names that glibc gives them from 2.33 on and before.
CACHE = Path(os.environ.get("SEG1A_CACHE_DIR") or Path.home() / ".cache" / "seg1a") / "generic-cpu"
GENERIC = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "SEG1A_CACHE_DIR": str(CACHE)}
PLAIN_LIBC = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F,-AVX2_Usable,-FMA_Usable,-FMA4_Usable,-AVX512F_Usable"}

MATRIX = {
    "two workers": (("--workers", "2"), {}),
    "three workers, direct I/O": (("--workers", "3", "--direct-io"), {}),
    "eight workers": (("--workers", "8"), {}),
    "one worker, direct I/O, C library without FMA and AVX2": (("--workers", "1", "--direct-io"), PLAIN_LIBC),
    "two workers, kernels for a generic CPU": (("--workers", "2"), GENERIC),
}


# Two workers are those of the runs in test_end_to_end.py, which are compared with the same run; the kernels of another CPU are compiled for a minute.
IN_SOAK = ("two workers", "two workers, kernels for a generic CPU")


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow if case in IN_SOAK else ()) for case in MATRIX])
def test_the_sealed_bytes_are_the_same(seg1a, sharded_pack, in_process_run, tmp_path, case):
    flags, environment = MATRIX[case]
    done = seg1a("run", "--pack", sharded_pack, "--output-dir", tmp_path, "--no-notebooks", *flags, *FLAGS, *LANES, **environment)
    found, expected = sealed_files(run_root(done)), sealed_files(in_process_run)
    assert [name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)] == []
    assert any(name.endswith("part-s1-00002.jsonl") for name in found), "the universe must have several shards"
    shutil.rmtree(tmp_path)


# ---- the settings do what they say ------------------------------------------------------------------------------------


def output_of(program: str, **environment: str) -> str:
    return subprocess.run([sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, check=True).stdout


LIBM = """
import hashlib, math, random, struct
random.seed(1)
values = [random.uniform(0.01, 30.0) for _ in range(200_000)]
print(hashlib.sha256(struct.pack("600000d", *(f(x) for f in (math.exp, math.log, math.sin) for x in values))).hexdigest())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or platform.machine() != "x86_64", reason="the setting is glibc's, for x86-64")
def test_the_c_library_without_fma_has_other_bits():
    if " fma " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no FMA to be left out")
    assert output_of(LIBM) != output_of(LIBM, **PLAIN_LIBC)


def test_the_generic_cpu_is_what_the_kernels_are_compiled_for():
    program = "from numba.core.registry import cpu_target as t; print(t.target_context.codegen().magic_tuple()[1:])"
    assert "generic" in output_of(program, **GENERIC) != output_of(program)
