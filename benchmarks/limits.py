#!/usr/bin/env python3
"""What the machine allows: the same number of bytes copied, hashed and written by the plainest program.

  limits.py [--bytes 1000000000] [--at-most 4000000000] [--folder DIR]

Memory copy, SHA-256 (hashlib), files written through the page cache with fsync and by O_DIRECT, both with and without SHA-256 in the same pass, on one
thread and on two (a file each), files read back, and columns written as Parquet (zstd, row groups of 32 768). The buffers are small and used again, the
content is random. More than `--at-most` bytes are not written: the seconds are then those of a part, scaled, and `measured_bytes` says so.
"""
import argparse
import hashlib
import mmap
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measure import Table, benchmark, best, say

CHUNK = 1 << 20
BLOCK = 16 * CHUNK
ROW_GROUP = 32_768
PARQUET_BYTES = 64 << 20


def random_block() -> mmap.mmap:
    """Memory that begins at a page, as O_DIRECT wants it, full of random bytes."""
    block = mmap.mmap(-1, BLOCK)
    block[:] = os.urandom(BLOCK)
    return block


BLOCKS = [random_block() for _ in range(4)]  # two to read from and two to copy to, touched before any clock runs


def chunks(block: mmap.mmap, size: int):
    """Views of the block, over and over, until `size` bytes (a multiple of the chunk) have passed."""
    view = memoryview(block)
    for start in range(0, size, CHUNK):
        place = start % BLOCK
        yield view[place : place + CHUNK]


def copy(block: mmap.mmap, size: int, to: mmap.mmap) -> None:
    target = memoryview(to)
    for i, chunk in enumerate(chunks(block, size)):
        place = i * CHUNK % BLOCK
        target[place : place + CHUNK] = chunk


def hashed(block: mmap.mmap, size: int) -> None:
    digest = hashlib.sha256()
    for chunk in chunks(block, size):
        digest.update(chunk)


def written(block: mmap.mmap, size: int, path: Path, direct: bool = False, digest: bool = False) -> None:
    """A new file of `size` bytes, on the disk when this returns; with its SHA-256 taken on the way."""
    sha = hashlib.sha256()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | (os.O_DIRECT if direct else 0), 0o600)
    try:
        for chunk in chunks(block, size):
            if digest:
                sha.update(chunk)
            if os.write(handle, chunk) != CHUNK:
                raise OSError(f"{path}: a short write")
        os.fsync(handle)
    finally:
        os.close(handle)


def read_back(size: int, path: Path) -> None:
    room = memoryview(mmap.mmap(-1, CHUNK))
    with open(path, "rb", buffering=0) as file:
        while file.readinto(room):
            pass


def on_threads(threads: int, size: int, task) -> None:
    """`task(block, bytes, number)` on each thread, the bytes shared out."""
    share = max(1, round(size / threads / CHUNK)) * CHUNK
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda i: task(BLOCKS[i], share, i), range(threads)))


def parquet(size: int, folder: Path) -> dict:
    """Columns of a table of candidates, about `size` bytes in memory, as one Parquet file: seconds, and the bytes that came of it."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, group = np.random.default_rng(1), ROW_GROUP
    countries = pa.array([a + b for a in "ABCDEFGHIJ" for b in "KLMNOPQRST"])
    table = pa.table({"merchant_id": np.sort(rng.integers(1, 2**63, group)), "country_iso": pa.DictionaryArray.from_arrays(rng.integers(0, 100, group).astype(np.int32), countries),
                      "is_home": rng.random(group) < 0.3, "candidate_rank": rng.integers(0, 20, group).astype(np.int32), "weight": rng.random(group)})
    groups = max(1, size // table.nbytes)

    def write() -> None:
        with pq.ParquetWriter(folder / "table.parquet", table.schema, version="2.6", compression="zstd", compression_level=3) as writer:
            for _ in range(groups):
                writer.write_table(table, row_group_size=group)

    seconds = best(write, 1)
    return {"seconds": seconds * size / (groups * table.nbytes), "file_bytes": (folder / "table.parquet").stat().st_size, "memory_bytes": groups * table.nbytes}


def measure(arguments: argparse.Namespace) -> dict:
    """Seconds of each limit for `bytes` bytes."""
    size = max(CHUNK, min(arguments.bytes, arguments.at_most) // CHUNK * CHUNK)
    scale, seconds = arguments.bytes / size, {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        folder = Path(place)

        def take(name: str, call) -> None:
            say(f"limits: {name}")
            try:
                seconds[name] = best(call, arguments.repeat) * scale
            except OSError as error:
                say(f"limits: {name}: {error.strerror}: left out")

        for threads in (1, 2):
            text = "1 thread" if threads == 1 else "2 threads"
            take(f"memory copy, {text}", lambda: on_threads(threads, size, lambda block, share, i: copy(block, share, BLOCKS[2 + i])))
            take(f"SHA-256, {text}", lambda: on_threads(threads, size, lambda block, share, i: hashed(block, share)))
            for way, direct in (("buffered", False), ("O_DIRECT", True)):
                for digest in (False, True):
                    name = f"write {way}{' + SHA-256' if digest else ''}, {text}"
                    take(name, lambda: on_threads(threads, size, lambda block, share, i: written(block, share, folder / f"{i}", direct, digest)))
                    if threads == 1 and not direct and not digest:
                        take("read back, 1 thread", lambda: read_back(size, folder / "0"))
                    for path in folder.iterdir():
                        path.unlink()
        table = parquet(min(size, PARQUET_BYTES), folder)
    seconds["Parquet, zstd"] = table.pop("seconds") * arguments.bytes / min(size, PARQUET_BYTES)
    return {"bytes": arguments.bytes, "measured_bytes": size, "seconds": seconds, "parquet": table, "plain": seconds.get("write buffered + SHA-256, 1 thread"),
            "fastest": min(value for name, value in seconds.items() if name.startswith("write") and "SHA" in name)}


def tables(results: dict) -> list[Table]:
    size, part = results["bytes"], "" if results["measured_bytes"] >= results["bytes"] - CHUNK else f", from {results['measured_bytes'] / 1e9:.1f} GB"
    rows = [(name, seconds, size / seconds / 1e9, seconds / results["plain"]) for name, seconds in results["seconds"].items()]
    return [Table(f"Limits: {size / 1e9:,.2f} GB{part}", ("what", "seconds", "GB/s", "of write buffered + SHA-256, 1 thread"), rows)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=lambda text: int(float(text)), default=1_000_000_000)
    parser.add_argument("--at-most", type=lambda text: int(float(text)), default=4_000_000_000, help="measure no more than this, and scale (default 4e9)")
    parser.add_argument("--repeat", type=int, default=1, help="best of this many (default 1)")
    parser.add_argument("--folder", help="where to write (default: the folder for temporary files)")
    benchmark(parser, measure, tables)
