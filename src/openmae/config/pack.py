"""Settings of `openmae pack`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from openmae.config.base import Settings, setting

DATA, RUN = "Data", "Run"
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class PackConfig(Settings):
    """Put images into few large memory-mapped files, which every command reads as it reads DATA."""

    data: str = setting(
        ..., "images, as for pretrain; with --verify a packed folder", DATA, "free", positional=True
    )
    out: str | None = setting(None, "the folder to write", DATA, "free", positional=True)
    mode: Literal["auto", "jpeg", "lossless", "raw"] = setting(
        "auto",
        "jpeg: smaller photos; lossless: files as they are; raw: decoded values; auto chooses",
        DATA,
        "free",
    )
    short_side: int = setting(
        256, "pixels that the shorter side is brought down to by jpeg", DATA, "free", ge=1, le=65500
    )
    quality: int = setting(90, "of jpeg", DATA, "free", ge=1, le=100)
    shard_size: str = setting("1GB", "of a file: 500MB, 2GB", DATA, "free")
    verify: bool = setting(False, "only check a packed folder: every byte is read", RUN, "free")
    workers: int | None = setting(
        None, "processes; one a core by default", RUN, "free", ge=0, le=256
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.verify and self.out is None:
            yield "data", ": name the folder to write too: openmae pack DATA OUT"
        if self.verify and self.out is not None:
            yield "out", ": --verify takes one folder, the packed one"
        if not _bytes_of(self.shard_size):
            yield "shard_size", ": give a size from 1KB to 1TB, such as 1GB"

    @property
    def shard_bytes(self) -> int:
        """Shard size in bytes."""
        return _bytes_of(self.shard_size)


def _bytes_of(text: str) -> int:
    """Bytes of "1GB"; 0 where it says no such size."""
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([KMGT]B)", text.strip(), re.I | re.A)
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    return size if 1000 <= size <= 10**12 else 0
