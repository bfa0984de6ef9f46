"""`openmae pack`: images into few large files that are read much faster. The same command again
continues it.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import numpy as np

from openmae.config.base import Options
from openmae.config.pack import PackConfig
from openmae.data.folder import FolderSource
from openmae.data.packcheck import verify
from openmae.data.packed import PackedSource, is_packed
from openmae.data.packindex import BAD
from openmae.data.packing import Packer, tidy
from openmae.data.packjob import job_of, state_of
from openmae.data.records import Form, choose_mode, look, looked_at, record, require_jpeg
from openmae.data.source import Source
from openmae.data.sources import digits, open_source
from openmae.data.splits import IN_TEST, IN_TRAIN, TEST, TRAIN
from openmae.engine.device import cpu_count
from openmae.engine.log import duration, say, warn
from openmae.engine.runfolder import Results, gigabytes
from openmae.engine.signals import StopRequest
from openmae.errors import STOPPED_EARLY, DataError, StorageError, UsageError

_FEW = 500  # images that are not worth starting processes for
_TRIED = 32  # images that are made to know how large all will be
_IN_INDEX = 150  # bytes an image, generously


def run(config: PackConfig, options: Options) -> Results:
    """Pack images, or check packed ones; the result has their number and size."""
    if config.verify:
        return _verify(Path(config.data).expanduser())
    assert config.out is not None
    out = Path(config.out).expanduser()
    _require_apart(config.data, out)
    results: dict[str, object] = {}
    parts = parts_of(config.data)
    _require_only(out, parts)
    with StopRequest() as stop:
        for name in parts or [""]:
            data = str(Path(config.data).expanduser() / name) if name else config.data
            found = _pack(config, options, _open(data), out / name, stop)
            if found.exit_code:
                return found
            results |= {f"{name}_{k}" if name else k: v for k, v in found.items()}
    if options.dry_run:
        say("Dry run", "everything fits; nothing was written")
        return Results({"dry_run": True})
    shown = out / parts[0] if parts else out
    say("Next", f"openmae pretrain {shown}")
    return Results(results, out)


def _open(data: str) -> Source:
    """All rows, with their split."""
    if data != "digits":
        return open_source(data, split="all")
    source = digits()
    source.table_splits = np.where(np.arange(len(source)) % 5 == 0, IN_TEST, IN_TRAIN).astype("i1")
    return source


def parts_of(data: str) -> list[str]:
    """train/ and test/ (or val/) of a folder that has both: each is packed by itself, so that the
    packed folder is split as the folder was.
    """
    root = Path(data).expanduser()
    both = [next((n for n in names if (root / n).is_dir()), "") for names in (TRAIN, TEST)]
    return both if all(both) else []


def _require_apart(data: str, out: Path) -> None:
    source, target = Path(data).expanduser().resolve(), out.resolve()
    if source.is_dir() and (source == target or source in target.parents):
        raise UsageError(
            f"{out} lies inside {data}, which is never written to. Name a folder elsewhere, such as"
            f" {source.with_name(source.name + '-packed')}"
        )


def _require_only(out: Path, parts: list[str]) -> None:
    """A folder of parts holds nothing else."""
    names = sorted(p.name for p in out.iterdir()) if parts and out.is_dir() else []
    if others := [name for name in names if name not in parts]:
        raise StorageError(f"{out} holds other files ({others[0]}): refusing. Name a new folder")


def _pack(
    config: PackConfig, options: Options, source: Source, out: Path, stop: StopRequest
) -> Results:
    if type(source) is FolderSource:  # of a pattern too
        _require_apart(str(source.root), out)
    form = _form(config, source)
    job = job_of(source, form)
    state = state_of(out, job)
    if state == "done":
        say("Packed", f"{out} is complete: {PackedSource(out).index.count:,} images. Nothing to do")
        if not options.dry_run:
            tidy(out)
        return _results(PackedSource(out), out)
    packer = Packer(source, out, form, job)
    needed = _needed(source, form)
    _require_space(out, needed)
    say("Plan", f"about {gigabytes(needed)} in {out}")
    if options.dry_run:
        return Results({})
    workers = config.workers
    if workers is None:
        workers = min(16, cpu_count()) if len(source) >= _FEW else 0
    start = time.monotonic()
    with packer.locked():
        packer.begin()
        if packer.next:
            say("Resume", f"{packer.next:,} images are packed already, in whole shards")
        progress = _Progress(len(source), packer.next)
        try:
            reason = packer.write(workers, stop.reason, progress.show)
        except OSError as error:
            raise StorageError(
                f"{out} cannot be written: {error.strerror or error}. What is whole stays; the same"
                " command again continues"
            ) from None
        finally:
            progress.end()
        if reason is not None:
            say("Stopped", f"by {reason}; the same command again continues it")
            return Results({"n": packer.next}, out, STOPPED_EARLY)
        packer.check()
        packer.finish()
    packed = verify(out, lambda done, total: None)
    _tell(packed, out, source, time.monotonic() - start)
    return _results(packed, out)


def _form(config: PackConfig, source: Source) -> Form:
    headers = look(source)
    mode, why = (config.mode, "asked for")
    if mode == "auto":
        mode, why = choose_mode(source, headers, config.short_side)
    elif mode == "jpeg":
        require_jpeg(source, headers)
    if mode == "jpeg":
        form = f"jpeg quality {config.quality}, shorter side at most {config.short_side} px"
    else:
        form = {"lossless": "the files, byte for byte", "raw": "decoded values"}[mode]
    say("Data", f"{len(source):,} images in {source.name}")
    say("Mode", f"{mode} ({why}): {form}")
    side, quality = (config.short_side, config.quality) if mode == "jpeg" else (0, 0)
    return Form(mode, side, quality, config.shard_bytes)


def _needed(source: Source, form: Form) -> int:
    """Bytes on disk, estimated from some images."""
    made = [record(source, index, form) for index in looked_at(source, _TRIED)]
    sizes = [len(found.data) for found in made if found.reason is None]
    each = sum(sizes) / len(sizes) if sizes else 0
    return int(len(source) * (each + 32 + _IN_INDEX))


def _require_space(out: Path, needed: int) -> None:
    parent = out
    while not parent.exists():
        parent = parent.parent
    there = sum(p.stat().st_size for p in out.iterdir()) if out.is_dir() else 0
    free = shutil.disk_usage(parent).free + there
    if free < needed * 1.05:
        raise StorageError(
            f"{parent} has {gigabytes(free)} for the images, which need about"
            f" {gigabytes(needed * 1.05)}. Free some, or name a folder on another disk"
        )


def _tell(packed: PackedSource, out: Path, source: Source, seconds: float) -> None:
    unreadable = packed.index.head["unreadable"]
    if unreadable:
        warn(f"{unreadable:,} of {len(source):,} images cannot be read: {out / BAD} lists them")
    size, shards = sum(s.size for s in packed.index.shards), len(packed.index.shards)
    say(
        "Packed",
        f"{packed.index.count:,} images, {gigabytes(size)} in {shards} shard{'s' * (shards > 1)},"
        f" {duration(seconds)}; read back and verified",
    )


def _results(packed: PackedSource, out: Path) -> Results:
    index = packed.index
    size = sum(s.size for s in index.shards)
    values = {"n": index.count, "unreadable": index.head["unreadable"], "mode": index.mode}
    return Results(values | {"shards": len(index.shards), "bytes": size}, out)


def _verify(root: Path) -> Results:
    folders = [root / name for name in parts_of(str(root))] or [root]
    results: dict[str, object] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder. Give one that openmae pack has written")
        if not is_packed(folder):
            raise DataError(f"{folder} is not packed, or not to the end. Pack it: openmae pack")
        packed = verify(folder, lambda done, total: None)
        say("Verified", f"{folder}: {packed.index.count:,} images, every byte as it was written")
        found = _results(packed, folder)
        results |= {f"{folder.name}_{k}" if len(folders) > 1 else k: v for k, v in found.items()}
    return Results(results, root)


class _Progress:
    """One line rewritten on a terminal, one plain line a minute otherwise."""

    def __init__(self, total: int, first: int) -> None:
        self.total, self.first = total, first
        self.terminal = sys.stdout.isatty()
        self.started = self.last = time.monotonic()

    def show(self, images: int, size: int) -> None:
        """What is done."""
        now = time.monotonic()
        if now - self.last < (0.5 if self.terminal else 60):
            return
        self.last = now
        rate = (images - self.first) / (now - self.started)
        line = (
            f"{images:,}/{self.total:,} images  {gigabytes(size)}  {rate:,.0f} img/s  left"
            f" {duration((self.total - images) / max(rate, 1e-9))}"
        )
        print(f"\r\033[K{line}" if self.terminal else line, end="" if self.terminal else "\n")
        sys.stdout.flush()

    def end(self) -> None:
        """Leave the terminal as it was."""
        if self.terminal:
            print("\r\033[K", end="", flush=True)
