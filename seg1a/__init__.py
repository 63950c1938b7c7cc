"""A deterministic, governed engine: a sealed pack in, a merchant-and-outlet universe out, proved and replayable bit for bit."""

__version__ = "0.1.0"
__all__ = [
    "Explanation", "NotPassed", "RunDiff", "RunResult", "SealedRun", "Seg1aError", "Substream", "Verdict", "build_pack", "diff", "explain", "gamma_draws", "open_run",
    "poisson_draws", "run", "substream", "verify",
]

# name -> module; a name is imported when it is asked for, so that `import seg1a` loads nothing and the command line answers at once
_HOMES = {
    **dict.fromkeys(("RunResult", "gamma_draws", "poisson_draws", "run", "substream", "verify"), "seg1a.operations.library"),
    **dict.fromkeys(("SealedRun", "open_run"), "seg1a.operations.consume"),
    **dict.fromkeys(("Explanation", "explain"), "seg1a.operations.explain"),
    **dict.fromkeys(("RunDiff", "diff"), "seg1a.operations.diff_report"),
    **dict.fromkeys(("NotPassed", "Seg1aError"), "seg1a.core.errors"),
    "Substream": "seg1a.core.reference_samplers",
    "Verdict": "seg1a.core.gates",
    "build_pack": "seg1a.inputs.pack",
}

TYPE_CHECKING = False
if TYPE_CHECKING:  # what __getattr__ does, said to type checkers
    from seg1a.core.errors import NotPassed, Seg1aError
    from seg1a.core.gates import Verdict
    from seg1a.core.reference_samplers import Substream
    from seg1a.inputs.pack import build_pack
    from seg1a.operations.consume import SealedRun, open_run
    from seg1a.operations.diff_report import RunDiff, diff
    from seg1a.operations.explain import Explanation, explain
    from seg1a.operations.library import RunResult, gamma_draws, poisson_draws, run, substream, verify


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'seg1a' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
