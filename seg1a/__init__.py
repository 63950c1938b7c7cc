"""A deterministic, governed engine: a sealed pack in, a merchant-and-outlet universe out, proved and replayable bit for bit."""

__version__ = "0.1.0"
__all__ = ["NotPassed", "SealedRun", "Seg1aError", "open_run"]


def __getattr__(name: str):
    # `open_run` needs pyarrow; a name is imported when it is asked for, so that the command line answers at once
    if name in ("SealedRun", "open_run"):
        from seg1a.operations import consume as module
    elif name in ("NotPassed", "Seg1aError"):
        from seg1a.core import errors as module
    else:
        raise AttributeError(f"module 'seg1a' has no attribute {name!r}")
    return getattr(module, name)
