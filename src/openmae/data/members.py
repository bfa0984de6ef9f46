"""What tar and zip share: which members are images, what their labels are, and the source of them.

Names of members are labels and never paths: nothing is extracted. As in WebDataset, members of a
shard whose names agree up to the first dot of the last part are one sample; its label comes from
`.cls` (a number or a name) or from "label" in `.json`. Without such members the first folder below
the common root is the class, as in a folder of images.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openmae.data.decode import SUFFIXES
from openmae.data.folder import classes_of
from openmae.data.memberindex import Index
from openmae.data.names import Names
from openmae.data.shards import Shards
from openmae.data.source import BytesSource
from openmae.data.splits import TEST, TRAIN, codes_of, numbered
from openmae.data.values import Decoding
from openmae.errors import DataError

MAX_MEMBER = 1 << 30  # bytes of an image in an archive
MAX_MEMBERS = 10_000_000  # of one archive
MAX_NAME = 1 << 15  # characters of one name
MAX_NAMES = 1 << 30  # characters of the names of one archive
_PATIENCE = 5.0  # seconds between lines that say how far a long index is
LABELS = {".cls": 1 << 12, ".json": 1 << 20}  # bytes; a longer one is no label
_CONTROL = dict.fromkeys((*range(32), 127), "_")  # they would end a line, or move a cursor
_FIRST = (".jpg", ".jpeg", ".png")  # of several images of a sample


def clean(name: str) -> str:
    """A name that is safe to show and to keep in a list: relative, without "..", in one line."""
    parts = [part for part in name.translate(_CONTROL).split("/") if part not in ("", ".")]
    return "/".join("__" if part == ".." else part for part in parts)


class Gather:
    """Takes the members of an archive one by one; `finish` makes the index."""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.others: Counter[str] = Counter()
        self.count = 0
        self._told = time.monotonic()
        self._seen: dict[str, int] = {}
        self._images: list[tuple[str, int, int, int]] = []
        self._labels: dict[str, dict[str, str]] = {suffix: {} for suffix in LABELS}
        self._characters = 0

    def add(self, raw: str, offset: int, size: int, regular: bool = True) -> str | None:
        """Take a member. The suffix of one whose bytes say a label, which `label` then wants.

        Raises:
            DataError: two of the same name, or more than can be.
        """
        self.count += 1
        self._characters += len(raw)
        if self.count > MAX_MEMBERS or len(raw) > MAX_NAME or self._characters > MAX_NAMES:
            raise DataError(
                f"{self.shard}: more than {MAX_MEMBERS:,} members, or endless names (at {offset})."
                " Split it into shards"
            )
        if self.count % 8192 == 0 and time.monotonic() - self._told > _PATIENCE:
            self._told = time.monotonic()
            text = f"openmae: indexing {self.shard}, {self.count:,} members so far"
            print(text, file=sys.stderr, flush=True)
        name = clean(raw)
        if not regular:
            self.others["links or devices"] += 1
            return None
        if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            return None  # what is hidden is left out, as in folders
        suffix = os.path.splitext(name)[1].lower()
        image = suffix in SUFFIXES
        if not image and suffix not in LABELS:
            self.others[suffix or "(no suffix)"] += 1
            return None
        if name in self._seen:
            raise DataError(
                f"{self.shard}: {name} is in it twice (at {self._seen[name]} and {offset}). Make"
                " it anew with each name once"
            )
        self._seen[name] = offset
        if image:
            self._images.append((name, offset, size, self.count - 1))
            return None
        self.others[suffix] += 1
        return suffix if size <= LABELS[suffix] else None

    def label(self, raw: str, suffix: str, data: bytes) -> None:
        """What a member for which `add` gave a suffix says."""
        text = _text(suffix, data)
        if text:
            self._labels[suffix][os.path.splitext(clean(raw))[0]] = text

    def finish(self) -> tuple[Index, NDArray[np.int64]]:
        """The index, and the number of each of its images among all members."""
        kept = self._without_views()
        index = Index(
            Names(name for name, _, _, _ in kept),
            np.array([offset for _, offset, _, _ in kept], dtype=np.int64),
            np.array([size for _, _, size, _ in kept], dtype=np.int64),
            Names(self._label_of(name) for name, _, _, _ in kept),
            len(self._images) - len(kept),
        )
        return index, np.array([number for _, _, _, number in kept], dtype=np.int64)

    def _label_of(self, name: str) -> str:
        for found in self._labels.values():
            if found:
                for key in (os.path.splitext(name)[0], _key(name)[0]):
                    if key in found:
                        return found[key]
        return ""

    def _without_views(self) -> list[tuple[str, int, int, int]]:
        """One image a sample: where more than half of the samples hold a second image of the same
        ending beside their main one (`1.jpg`, `1.seg.png`), that is another view of it, often a
        mask, and no image of its own. Single ones (`cat.jpg`, `cat.old.jpg`) are images.
        """
        groups: dict[str, list[str]] = {}
        for name, _, _, _ in self._images:
            key, ending = _key(name)
            groups.setdefault(key, []).append(ending)
        seconds: Counter[str] = Counter()
        for endings in groups.values():
            seconds.update(_seconds(endings))
        views = {ending for ending, n in seconds.items() if n * 2 > len(groups)}
        if not views:
            return self._images
        kept = []
        for image in self._images:
            key, ending = _key(image[0])
            if ending not in views or ending not in _seconds(groups[key]):
                kept.append(image)
        return kept


def _key(name: str) -> tuple[str, str]:
    """Name up to the first dot of its last part, and the rest."""
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    return folder + slash + stem, dot + ending.lower()


def _seconds(endings: list[str]) -> list[str]:
    """Endings of a sample's images beside its main one, which has a plain suffix."""
    plain = [ending for ending in endings if ending.count(".") == 1]
    if len(endings) < 2 or not plain:
        return []
    main = min(plain, key=lambda e: (_FIRST.index(e) if e in _FIRST else len(_FIRST), e))
    return [ending for ending in endings if ending != main]


def _text(suffix: str, data: bytes) -> str:
    """The label in a `.cls` or `.json`, "" if there is none."""
    text = data.decode("utf-8", "replace").strip()
    if suffix == ".json":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return ""
        value = value.get("label") if isinstance(value, dict) else None
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            return ""
        text = str(value).strip()
    return text.translate(_CONTROL)


class ArchiveSource(BytesSource):
    """Images in archives, in the order of their names whatever their order in the files.

    Attributes:
        left_out: further images of samples that are not counted.

    Training and test part are those that the first folders below the common root say (train/ and
    test/ or val/), or the names of the archives (train-000.tar, val-000.tar).
    """

    def __init__(
        self, name: str, shards: Shards, indexes: Sequence[Index], decoding: Decoding | None = None
    ) -> None:
        super().__init__(name, sum(len(index.names) for index in indexes), decoding)
        self.shards = shards
        names = [member for index in indexes for member in index.names]
        counts = [len(index.names) for index in indexes]
        order = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
        self.order = order  # the place of each row in the indexes one after the other
        self.shard = np.repeat(np.arange(len(indexes), dtype=np.int32), counts)[order]
        self.offsets = np.concatenate([index.offsets for index in indexes])[order]
        self.sizes = np.concatenate([index.sizes for index in indexes])[order]
        self.members = Names(names[i] for i in order.tolist())
        self.left_out = sum(index.left_out for index in indexes)
        below = self._below_root()
        self.table_splits = codes_of([path.partition("/")[0] for path in below])
        if self.table_splits is not None:
            below = [path.partition("/")[2] for path in below]
        else:
            words = [_split_word(shard.name) for shard in shards.shards]
            self.table_splits = codes_of([words[i] for i in self.shard.tolist()])
        labels = [text for index in indexes for text in index.labels]
        self.told = any(labels)
        if self.told:
            self.classes, self.table_labels = _classes([labels[i] for i in order.tolist()])
        else:
            self.classes, self.table_labels = classes_of(below)

    def _below_root(self) -> list[str]:
        """Names without the folders that all share."""
        # of sorted names the first and the last share what all share
        ends = [self.members[0], self.members[len(self.members) - 1]]
        root = len(os.path.commonpath([os.path.dirname(name) for name in ends]))
        return [name[root:].lstrip("/") for name in self.members]

    def row_path(self, row: int) -> str:
        """ARCHIVE/MEMBER."""
        return f"{self.shards.shards[self.shard[row]].name}/{self.members[row]}"

    def row_line(self, row: int) -> str:
        """Archive, member and size, with the label where a member says it."""
        line = f"{self.row_path(row)}\t{self.sizes[row]}"
        return f"{line}\t{self.label_text(row)}" if self.told else line

    def label_text(self, row: int) -> str:
        """The name of the class of a row, "" without one."""
        number = -1 if self.table_labels is None else int(self.table_labels[row])
        return self.classes[number] if number >= 0 else ""

    def row_bytes(self, row: int) -> bytes:
        """The bytes of the member."""
        return self.stored(row, int(self.sizes[row]))

    def stored(self, row: int, count: int, skip: int = 0) -> bytes:
        """`count` bytes of the archive from `skip` behind the row's offset.

        Raises:
            DataError: too many, or the archive ends before.
        """
        if count > MAX_MEMBER:
            raise DataError(f"{count:,} bytes; at most {MAX_MEMBER:,} of an archive are read")
        shard, start = int(self.shard[row]), int(self.offsets[row]) + skip
        data = self.shards.read(shard, start, count)
        if len(data) != count:
            name = self.shards.shards[shard].name
            raise DataError(f"{name} ends at {start + len(data)}, within this image")
        return data


def _split_word(shard: str) -> str:
    """The word of a name such as train-000.tar or val/000.tar that says a part, or ""."""
    for part in reversed(shard.lower().split("/")):
        found = re.match(r"[a-z]+", part)
        if found and found[0] in (*TRAIN, *TEST):
            return found[0]
    return ""


def _classes(texts: list[str]) -> tuple[list[str], NDArray[np.int64] | None]:
    if all(re.fullmatch(r"[+-]?\d{1,18}", text) for text in texts if text):
        return numbered([int(text) if text else None for text in texts])
    return numbered(texts)


def no_images(data: str, gathered: Sequence[Gather]) -> str:
    """What to say of archives without images: what they hold instead."""
    others: Counter[str] = Counter()
    for one in gathered:
        others.update(one.others)
    found = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(3)) or "nothing"
    members = sum(one.count for one in gathered)
    return (
        f"{data} has 0 images ({members} members; found {found}). Pack JPEG or PNG files"
        " into it, not archives"
    )
