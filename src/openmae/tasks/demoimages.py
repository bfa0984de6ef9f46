"""Which images the demo offers, and where the pictures of embedded ones are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from openmae.config.demo import DemoConfig
from openmae.data.decode import Header, read_bytes, read_header, read_image
from openmae.data.folder import FolderSource
from openmae.data.source import Source
from openmae.data.sources import SETS, open_source
from openmae.data.transforms import EvalTransform
from openmae.data.values import Decoding, Pixels
from openmae.engine.log import warn
from openmae.errors import DataError, StorageError, UsageError
from openmae.models.encoder import Encoder
from openmae.report.explorer import Embedded, vector_of
from openmae.tasks.decoding import decoding_of, require_fit
from openmae.tasks.neighbours import unit

_ALIKE = 0.99  # cosine of a stored vector and the same made again, below which a notice is given


@dataclass(frozen=True)
class Offered:
    """Images to choose from, what they are, and the word of each in a command, if it has one."""

    source: Source
    about: str
    word: Callable[[int], str | None]


class Files(Source):
    """Single image files, by the words that name them."""

    def __init__(self, words: Sequence[str], decoding: Decoding) -> None:
        super().__init__("the images given", len(words), decoding)
        self.words = list(words)

    def row_path(self, row: int) -> str:
        """The word."""
        return self.words[row]

    def row_image(self, row: int) -> Pixels:
        """Read the file."""
        return read_image(self._bytes(row), self.decoding.gray)

    def row_header(self, row: int) -> Header:
        """Read its header."""
        return read_header(self._bytes(row))

    def row_line(self, row: int) -> str:
        """Path and size."""
        return f"{self.words[row]}\t{len(self._bytes(row))}"

    def _bytes(self, row: int) -> bytes:
        return read_bytes(Path(self.words[row]).expanduser())


def offered(words: Sequence[str], reads: Decoding, encoder: Encoder) -> Offered:
    """The images that words name: files, or one set of them.

    Raises:
        DataError: they cannot be read, or a word is neither.
    """
    single = [w for w in words if Path(w).is_file() and Path(w).suffix.lower() not in SETS]
    if len(single) == len(words):
        files = Files(words, reads)
        for i in range(len(files)):
            try:
                files.header(i)
            except DataError as error:
                raise DataError(f"{words[i]}: {error}") from None
        require_fit(files, encoder)
        return Offered(files, "images", lambda i: words[i])
    if len(words) > 1:
        other = next(w for w in words if w not in single)
        raise DataError(f"{other}: give image files, or one folder or set")
    source = open_source(words[0], reads, split="test")
    require_fit(source, encoder)
    root = source.root if isinstance(source, FolderSource) else None
    word = (lambda i: str(root / source.path(i))) if root else (lambda i: None)
    return Offered(source, f"images in {words[0]}", word)


def embedded_in(config: DemoConfig, encoder: Encoder, source: Source | None) -> Embedded | None:
    """The vectors of --embeddings with the places of their images.

    Raises:
        StorageError: the file cannot be read.
        UsageError: the vectors are of another model.
    """
    if config.embeddings is None:
        return None
    vectors, names, pool = _read(Path(config.embeddings).expanduser())
    width = encoder.vit.embed_dim
    if vectors.ndim != 2 or vectors.shape[1] != width or len(vectors) != len(names):
        raise UsageError(
            f"--embeddings {config.embeddings}: vectors of {vectors.shape[-1]} numbers, this model"
            f" makes {width}. Write them with openmae embed {config.model}"
        )
    if config.embedded is not None:
        source = open_source(config.embedded, decoding_of(encoder), split="all")
    rows = np.full(len(names), -1, dtype=np.int64)
    if source is not None:
        places = {source.path(i): i for i in range(len(source))}
        rows = np.array([places.get(name, -1) for name in names], dtype=np.int64)
    found = Embedded(unit(vectors), names, pool, source, rows)
    if not (rows >= 0).any():
        warn("the images of --embeddings are not here: their names are shown (--embedded DATA)")
    else:
        _compare(found, encoder)
    return found


def _compare(found: Embedded, encoder: Encoder) -> None:
    """Say so where the model does not make the vector of the first image again."""
    first = int(np.flatnonzero(found.rows >= 0)[0])
    assert found.source is not None
    try:
        image = found.source[int(found.rows[first])]["image"]
    except DataError:
        return
    tensor = EvalTransform(encoder.image_size)(image)
    with torch.inference_mode():
        again = vector_of(encoder.cpu(), tensor, found.pool)
    if float(found.vectors[first] @ again) < _ALIKE:
        warn(
            f"--embeddings: {found.names[first]} has another vector there than this model makes."
            " Is it of another step, layer or data?"
        )


def _read(path: Path) -> tuple[NDArray[np.float32], list[str], str]:
    """Vectors, names and pooling of a file of `embed`."""
    try:
        if path.suffix == ".parquet":
            return _parquet(path)
        with np.load(path, allow_pickle=False) as file:
            names = [str(name) for name in file["path"]]
            return np.asarray(file["vector"], dtype=np.float32), names, str(file["pool"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
        raise StorageError(f"{path} is no file of openmae embed: {reason}") from None


def _parquet(path: Path) -> tuple[NDArray[np.float32], list[str], str]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError(
            f'--embeddings {path}: Parquet needs pyarrow: pip install "openmae[tables]"'
        ) from None
    table = pq.read_table(path)
    pool = (table.schema.metadata or {}).get(b"pool", b"mean").decode()
    vectors = np.array(table["vector"].to_pylist(), dtype=np.float32)
    return vectors, table["path"].to_pylist(), pool
