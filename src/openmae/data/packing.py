"""Write packed images: whole shards or none, in order, so that a killed writer goes on after the
last whole one and ends with the same bytes as one that was never killed.

What is on the disk at any moment: packing.json says what is being packed; shard-00000.bin counts
once part-00000.bin is beside it, which holds its part of the index; index.json comes last. Every
file is written under a temporary name, fsynced, then renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from openmae.data.packindex import (
    BAD,
    FORMAT,
    INDEX,
    TABLES,
    UNFINISHED,
    VERSION,
    file_sha256,
    seal,
    shard_name,
)
from openmae.data.packjob import splits_of
from openmae.data.records import Form, records
from openmae.data.shardwriter import NUMBERS, ShardWriter, put
from openmae.data.source import Source
from openmae.errors import DataError, StorageError

MOST_BAD = 0.05  # share of the images


class Packer:
    """A folder that is being packed; a context that holds its lock.

    Raises:
        StorageError: the folder is not ours, or another process is at work in it.
        DataError: other images, or too many that cannot be read.
    """

    def __init__(self, source: Source, out: Path, form: Form, job: dict[str, Any]) -> None:
        self.source, self.out, self.form, self.job = source, out, form, job
        self.parts: list[dict[str, Any]] = []
        self.formats: list[str] = []
        self.next, self.bad = 0, 0
        self._bad_at_the_end: list[dict[str, str]] = []

    @contextlib.contextmanager
    def locked(self) -> Iterator[Packer]:
        """Hold the folder; a start that fails leaves nothing."""
        made = [p for p in (self.out, *self.out.parents) if not p.exists()]
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            lock = (self.out / ".lock").open("a")
        except OSError as error:
            raise StorageError(f"{self.out} cannot be written: {error.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StorageError(f"{self.out} is in use by another process") from None
            try:
                yield self
            finally:
                if not (self.out / UNFINISHED).exists():  # it has ended, or never begun
                    (self.out / ".lock").unlink(missing_ok=True)
                    with contextlib.suppress(OSError):
                        for folder in made:
                            folder.rmdir()  # only where empty

    def begin(self) -> None:
        """Write down what is being packed, or find what is packed already."""
        for path in self.out.glob(".tmp-*"):
            path.unlink()
        if not (self.out / UNFINISHED).exists():
            put(self.out / UNFINISHED, json.dumps(self.job, indent=1).encode() + b"\n")
        while (part := self._part(len(self.parts))) is not None:
            self.parts.append(part)
            self.formats, self.bad = part["head"]["formats"], self.bad + len(part["head"]["bad"])
            self.next = part["head"]["next"]
        for path in [*self.out.glob("shard-*.bin"), *self.out.glob("part-*.bin")]:
            if int(path.stem.split("-")[1]) >= len(self.parts):
                path.unlink()  # of a shard that was not yet whole

    def _part(self, number: int) -> dict[str, Any] | None:
        """What is known of a whole shard; None where it is not whole."""
        try:
            data = (self.out / part_name(number)).read_bytes()
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                return None
            arrays = load(data[32:])
            head = json.loads(arrays.pop("head").tobytes())
            if (self.out / shard_name(number)).stat().st_size != head["bytes"]:
                return None
        except OSError:
            return None
        return {"head": head, "arrays": arrays}

    @property
    def size(self) -> int:
        """Bytes of all whole shards."""
        return sum(part["head"]["bytes"] for part in self.parts)

    def write(
        self, workers: int, stop: Callable[[], str | None], told: Callable[[int, int], None]
    ) -> str | None:
        """Write all shards that are missing; returns why it was stopped, or None.

        `told` is given the number of images and of bytes that are done.
        """
        shard, reason = self._new(), None
        made = records(self.source, self.form, self.next, workers)
        try:
            for row, record in enumerate(made, self.next):
                if (reason := stop()) is not None:
                    break
                if record.reason is None and not shard.fits(record):
                    self._close(shard, row)
                    shard = self._new()
                if record.reason is None:
                    shard.add(row, record, self.formats)
                else:
                    shard.rows.bad.append({"path": record.path, "reason": record.reason})
                    self._require_few_bad(shard.rows.bad)
                told(row + 1, self.size + shard.size)
            if reason is None and shard.file is not None:
                self._close(shard, len(self.source))
            elif reason is None:
                self._bad_at_the_end = shard.rows.bad
        finally:
            made.close()
            shard.drop()
        return reason

    def _new(self) -> ShardWriter:
        return ShardWriter(self.out, len(self.parts), self.form.shard_bytes)

    def _close(self, shard: ShardWriter, following: int) -> None:
        head: dict[str, Any] = shard.close() | {"next": following, "bad": shard.rows.bad}
        head["formats"] = list(self.formats)
        arrays = shard.rows.arrays()
        text = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
        data = save(arrays | {"head": text})
        put(self.out / part_name(shard.number), hashlib.sha256(data).digest() + data)
        self.parts.append({"head": head, "arrays": arrays})
        self.bad += len(shard.rows.bad)

    def _require_few_bad(self, more: list[dict[str, str]]) -> None:
        count = self.bad + len(more)
        if count <= MOST_BAD * len(self.source):
            return
        every = [row for part in self.parts for row in part["head"]["bad"]] + more
        put(self.out / BAD, _lines(every))
        for path in [*self.out.glob("shard-*.bin"), *self.out.glob("part-*.bin")]:
            path.unlink()
        (self.out / UNFINISHED).unlink()
        raise DataError(
            f"{count} of {len(self.source):,} images cannot be read, more than 5 % (first"
            f" {every[0]['path']}: {every[0]['reason']}).\n{self.out / BAD} lists them: mend or"
            " remove them, then pack again"
        )

    def check(self) -> None:
        """Read all shards back; what is not as it was written is written again by the next start.

        Raises:
            StorageError: naming the shard.
        """
        for number, part in enumerate(self.parts):
            path = self.out / shard_name(number)
            if file_sha256(path) != part["head"]["sha256"]:
                (self.out / part_name(number)).unlink()
                raise StorageError(
                    f"{path} reads back otherwise than it was written: look at the disk. The same"
                    " command again writes it anew"
                )

    def finish(self) -> None:
        """Write the index, then remove what only the writer needs."""
        source = self.source
        heads = [part["head"] for part in self.parts]
        shards = [{name: head[name] for name in ("bytes", "sha256", "count")} for head in heads]
        tables = save(_merged(source, self.parts))
        put(self.out / TABLES, tables)
        listed = [(TABLES, tables)]
        bad = [row for head in heads for row in head["bad"]] + self._bad_at_the_end
        if bad:
            listed.append((BAD, _lines(bad)))
            put(self.out / BAD, listed[-1][1])
        else:
            (self.out / BAD).unlink(missing_ok=True)
        files = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in listed}
        values = {
            "format": FORMAT,
            "version": VERSION,
            "mode": self.form.mode,
            "count": sum(head["count"] for head in heads),
            "unreadable": len(bad),
            "classes": source.classes,
            "formats": self.formats,
            **self.job,
            "files": files,
            "shards": shards,
        }
        put(self.out / INDEX, seal(values))
        tidy(self.out)


def _merged(source: Source, parts: list[dict[str, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """The whole index from its parts."""
    names = [*NUMBERS, "shape", "hash", "row"]
    made = {n: np.concatenate([part["arrays"][n] for part in parts]) for n in names}
    counts = [part["head"]["count"] for part in parts]
    made["shard"] = np.repeat(np.arange(len(parts), dtype="<u4"), counts)
    rows = made.pop("row")
    texts = [source.path(int(row)).encode("utf-8", "surrogateescape") for row in rows]
    made["names"] = np.frombuffer(b"".join(texts), dtype=np.uint8)
    made["name_end"] = np.cumsum([len(text) for text in texts], dtype="<i8")
    if source.table_labels is not None:
        labels = source.labels[rows]
        made["label"] = np.ascontiguousarray(labels, dtype="<i8" if labels.ndim == 1 else "<f4")
    splits = splits_of(source)
    if splits is not None:
        made["split"] = splits[rows]
    return made


def part_name(number: int) -> str:
    """part-00000.bin and on, beside the shards until the index is written."""
    return f"part-{number:05d}.bin"


def tidy(out: Path) -> None:
    """Remove what only the writer needs."""
    for path in [*out.glob("part-*.bin"), *out.glob(".tmp-*"), out / UNFINISHED, out / ".lock"]:
        path.unlink(missing_ok=True)


def _lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
