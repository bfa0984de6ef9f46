"""Check packed images: every byte hashed, every place in bounds, some images decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from openmae.data.packed import PackedSource
from openmae.data.packindex import INDEX, digest_of, file_sha256, shard_name
from openmae.data.records import looked_at
from openmae.errors import DataError, StorageError

SAMPLE = 64  # images that are decoded, evenly spaced


def verify(root: Path, told: Callable[[int, int], None]) -> PackedSource:
    """The source of a folder in which nothing is damaged.

    `told` is given the number of shards that are done and of all.

    Raises:
        StorageError: something is damaged; the first place is named.
    """
    try:
        source = PackedSource(root)  # the index: checksums and bounds
    except DataError as error:
        raise StorageError(str(error)) from None
    index, wrong = source.index, []
    for name, listed in index.head["files"].items():
        path = root / name
        if not path.is_file() or file_sha256(path) != listed["sha256"]:
            wrong.append(f"{name} is missing or fails its checksum")
    for number, shard in enumerate(index.shards):
        told(number, len(index.shards))
        if file_sha256(root / shard_name(number)) != shard.sha256:
            damaged = [
                f"{source.path(row)} in {shard_name(number)}" for row in _damaged(source, number)
            ]
            wrong += damaged or [f"{shard_name(number)} fails its checksum, between images"]
    if not wrong:
        wrong = list(_undecodable(source))
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise StorageError(
            f"{root} is damaged: {'; '.join(wrong[:3])}{more}.\nRestore it from a copy, or"
            " remove it and pack again"
        )
    return source


def _damaged(source: PackedSource, number: int) -> Iterator[int]:
    """Images of a shard whose bytes are not those that were written."""
    tables = source.index.tables
    for row in (tables["shard"] == number).nonzero()[0].tolist():
        if digest_of(source.index.record(row)) != tables["hash"][row].tobytes():
            yield row


def _undecodable(source: PackedSource) -> Iterator[str]:
    """What is wrong with images that a sample shows, though their bytes are right."""
    for row in looked_at(source, SAMPLE):
        shard = shard_name(source.index.place(row)[0])
        try:
            shape = source.raw(row).shape
        except DataError as error:
            yield f"{source.path(row)} in {shard}: {error}"
            continue
        header = source.header(row)
        if shape != header[:3]:
            yield f"{source.path(row)} in {shard} is {shape}, {INDEX} says {header[:3]}"
