"""Many strings in little memory: one block of bytes and where each ends."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

_CODEC = sys.getfilesystemencoding()


class Names(Sequence[str]):
    """An unchangeable list of strings that costs their bytes and eight more each.

    A Python list of a million paths costs 100 MB, and in every loader process again, because
    counting references writes to it. Two arrays are shared.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        parts = [_encoded(name) for name in names]
        self.block = np.frombuffer(b"".join(parts), dtype=np.uint8)
        self.ends: NDArray[np.int64] = np.cumsum([len(p) for p in parts], dtype=np.int64)

    @classmethod
    def of(cls, block: NDArray[np.uint8], ends: NDArray[np.int64]) -> Names:
        """From its two arrays, as they were."""
        made = cls()
        made.block, made.ends = block, ends
        return made

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Names: ...
    def __getitem__(self, index: int | slice) -> str | Names:
        if isinstance(index, slice):
            return Names(self[i] for i in range(*index.indices(len(self))))
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self.ends[index - 1]) if index else 0
        return self.block[start : int(self.ends[index])].tobytes().decode(_CODEC, "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        whole, start = self.block.tobytes(), 0
        for end in self.ends.tolist():
            yield whole[start:end].decode(_CODEC, "surrogateescape")
            start = end

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def _encoded(name: str) -> bytes:
    """The bytes of a file's name, which are those on the disk in any locale."""
    try:
        return name.encode(_CODEC, "surrogateescape")
    except UnicodeEncodeError:  # a name from a table, where the locale has fewer letters
        return name.encode("utf-8", "surrogateescape")


def shown(text: object, most: int = 160) -> str:
    """Words of a file, or of an error about it, for a message: on one line, without what would move
    a cursor, and not too long.
    """
    plain = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return plain if len(plain) <= most else f"{plain[: most - 4]} ..."
