"""The index of packed images, and its format (docs/pack.md): which bytes of which shard.

A packed folder holds index.json, index.safetensors and shard-00000.bin, ... It is made by
`openmae.data.packing`. All numbers are little-endian; nothing in it can run.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmae.data.values import Pixels
from openmae.errors import DataError

FORMAT, VERSION = "openmae-pack", 1
INDEX, TABLES, UNFINISHED, BAD = (
    "index.json",
    "index.safetensors",
    "packing.json",
    "bad_files.jsonl",
)
ALIGN = 64  # bytes; records begin at multiples, so that any array can be mapped
FILE, JPEG, RAW = 0, 1, 2
"""Kinds of record: a file as it was, a JPEG that we made, the values of an array."""
DTYPES = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16",
    "float32", "float64", "complex64", "complex128",
)  # fmt: skip
_REPAIR = "Restore it from a copy, or pack again"
_MAPS = 128  # shards that a process keeps mapped: each costs a file handle
_TYPES = {"U8": "<u1", "I8": "<i1", "U32": "<u4", "F32": "<f4", "I64": "<i8", "U64": "<u8"}
_PER_IMAGE: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "offset": (("U64",), ()),
    "size": (("U64",), ()),
    "shard": (("U32",), ()),
    "kind": (("U8",), ()),
    "dtype": (("U8",), ()),
    "format": (("U8",), ()),
    "shape": (("U32",), (3,)),
    "hash": (("U8",), (8,)),
    "name_end": (("I64",), ()),
}
"""Tables that every index has, with a row for each image: their types and further axes."""


def shard_name(number: int) -> str:
    """shard-00000.bin and on."""
    return f"shard-{number:05d}.bin"


def digest_of(data: bytes | memoryview) -> bytes:
    """The short hash of a record."""
    return hashlib.blake2b(data, digest_size=8).digest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(values: dict[str, Any]) -> bytes:
    """The text of index.json: its last entry is the sha256 of everything before it."""
    text = json.dumps(values, indent=1, allow_nan=False).removesuffix("\n}")
    return f"{text}{_tail(text)}".encode("ascii")


def unseal(data: bytes) -> dict[str, Any]:
    """The values of `seal`.

    Raises:
        ValueError: a byte of it is not what was written.
    """
    text = data.decode("ascii")
    before = text[: text.rfind(',\n "sha256"')]
    if _tail(before) != text[len(before) :]:
        raise ValueError("fails its checksum")
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("is not an index")
    return values


def _tail(text: str) -> str:
    return f',\n "sha256": "{hashlib.sha256(text.encode("ascii")).hexdigest()}"\n}}\n'


class Shard(NamedTuple):
    """Size in bytes, sha256 and number of images of a shard."""

    size: int
    sha256: str
    images: int


class Index:
    """The index of a packed folder, memory-mapped: one copy in memory for all processes.

    Raises:
        DataError: it is damaged, or a shard is missing or of another size.
    """

    def __init__(self, folder: Path) -> None:
        self._open(folder, check=True)

    def _open(self, folder: Path, check: bool) -> None:
        self.folder = folder
        try:
            self._read(check)
        except DataError:
            raise
        except OSError as error:
            name = Path(error.filename or folder).name
            raise DataError(f"{folder}: {name}: {error.strerror}. {_REPAIR}") from None
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            reason = " ".join(str(error).split())[:120]
            raise DataError(f"{folder}: the index is damaged ({reason}). {_REPAIR}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._open(state["folder"], check=False)  # the process that sent it has checked

    def _read(self, check: bool) -> None:
        head = unseal((self.folder / INDEX).read_bytes())
        if head["format"] != FORMAT or head["version"] != VERSION:
            raise DataError(
                f"{self.folder} is packed in format {head['version']}, this openmae reads {VERSION}"
            )
        self.head, self.count, self.mode = head, int(head["count"]), str(head["mode"])
        self.classes = [str(name) for name in head["classes"]]
        self.formats = [str(name) for name in head["formats"]]
        self.shards = [Shard(int(s["bytes"]), s["sha256"], int(s["count"])) for s in head["shards"]]
        for name, size in [
            (TABLES, int(head["files"][TABLES]["bytes"])),
            *((shard_name(n), s.size) for n, s in enumerate(self.shards)),
        ]:
            found = (self.folder / name).stat().st_size
            if found != size:
                raise DataError(
                    f"{self.folder / name} has {found:,} bytes, the index says {size:,}. {_REPAIR}"
                )
        path = self.folder / TABLES
        if check and file_sha256(path) != head["files"][TABLES]["sha256"]:
            raise DataError(f"{path} fails its checksum. {_REPAIR}")
        self._map_tables(path)
        self._check_tables()
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()

    def _map_tables(self, path: Path) -> None:
        with path.open("rb") as file:
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(whole[:8], "little")
        specs = json.loads(whole[8:start])
        specs.pop("__metadata__", None)
        self.tables: dict[str, NDArray[Any]] = {}
        self.types = {name: spec["dtype"] for name, spec in specs.items()}
        for name, spec in specs.items():
            first, last = spec["data_offsets"]
            count, kind = math.prod(spec["shape"]), np.dtype(_TYPES[spec["dtype"]])
            if last - first != count * kind.itemsize or first < 0:
                raise ValueError(f"table {name} has another size")
            table = np.frombuffer(whole, kind, count, start + first) if count else np.empty(0, kind)
            self.tables[name] = table.reshape(spec["shape"])

    def _check_tables(self) -> None:
        """Every place that the index names lies where it can be read."""
        t, n = self.tables, self.count
        for name, (types, more) in _PER_IMAGE.items():
            if t[name].shape != (n, *more) or self.types[name] not in types:
                raise ValueError(f"table {name} has another shape or type")
        sizes = np.array([s.size for s in self.shards], dtype=np.uint64)
        if n < 1 or int(t["shard"].max()) >= len(sizes):
            raise ValueError("a shard that is not there")
        end = sizes[t["shard"]]
        if (t["size"] > end).any() or (t["offset"] > end - t["size"]).any():
            raise ValueError("an image outside its shard")
        ends = t["name_end"]
        if ends[0] < 0 or (ends[1:] < ends[:-1]).any() or ends[-1] != len(t["names"]):
            raise ValueError("names that overlap")
        if (
            int(t["kind"].max()) > RAW
            or int(t["dtype"].max()) >= len(DTYPES)
            or int(t["format"].max()) >= len(self.formats)
        ):
            raise ValueError("an image of an unknown kind")
        label = t.get("label")
        if label is not None and len(label) != n:
            raise ValueError("labels of another number")
        if label is not None and label.ndim == 1 and (label.min() < -1 or self._above(label)):
            raise ValueError("a label without a class")
        if "split" in t and t["split"].shape != (n,):
            raise ValueError("splits of another number")

    def _above(self, label: NDArray[Any]) -> bool:
        return bool(self.classes) and int(label.max()) >= len(self.classes)

    def place(self, row: int) -> tuple[int, int, int]:
        """Shard, offset and size in bytes of a record."""
        t = self.tables
        return int(t["shard"][row]), int(t["offset"][row]), int(t["size"][row])

    def shard(self, number: int, end: int) -> mmap.mmap:
        """A shard, mapped; it has at least `end` bytes at this moment.

        Raises:
            DataError: it has become shorter, or cannot be opened.
        """
        found, path = self._maps.get(number), self.folder / shard_name(number)
        if found is None:
            try:
                with path.open("rb") as file:
                    found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise DataError(f"{path.name} cannot be opened: {error}") from None
            self._maps[number] = found
            while len(self._maps) > _MAPS:
                self._maps.popitem(last=False)  # closed when the last array of it is gone
        elif len(self._maps) == _MAPS:
            self._maps.move_to_end(number)
        if found.size() < end:  # of the file now: reading beyond it would end the process
            raise DataError(f"{path.name} has {found.size():,} bytes, the index says more")
        return found

    def record(self, row: int) -> bytes:
        """A record."""
        number, offset, size = self.place(row)
        return self.shard(number, offset + size)[offset : offset + size]

    def array(self, row: int) -> Pixels:
        """A record of values, (H, W, C) in their own type; a copy, which may be changed."""
        number, offset, size = self.place(row)
        kind = np.dtype(DTYPES[self.tables["dtype"][row]]).newbyteorder("<")
        shape = self.tables["shape"][row].tolist()
        if math.prod(shape) * kind.itemsize != size:
            raise DataError(f"{size} bytes are not {shape} values of {kind}")
        whole = self.shard(number, offset + size)
        return np.frombuffer(whole, kind, math.prod(shape), offset).reshape(shape).copy()
