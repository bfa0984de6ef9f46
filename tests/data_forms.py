"""The same twelve images as every source that there is."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

COUNT = 12
CLASSES = ("ant", "bee", "cat")


def names() -> list[str]:
    """Paths below the folder, sorted."""
    return sorted(f"{CLASSES[i % 3]}/{i:02d}.png" for i in range(COUNT))


def image(name: str) -> np.ndarray:
    """(24, 28, 3) uint8 noise on a slope, as its number decides."""
    rng = np.random.default_rng(int(Path(name).stem))
    slope = np.linspace(0, rng.integers(30, 180), 28)[None, :, None]
    return (slope + rng.integers(0, 60, (24, 28, 3))).astype(np.uint8)


def png(name: str) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    Image.fromarray(image(name)).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path) -> str:
    """Class folders."""
    for name in names():
        path = root / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(name))
    return str(root / "folder")


def glob(root: Path) -> str:
    """A pattern."""
    return folder(root) + "/*/*.png"


def listing(root: Path) -> str:
    """One path a line; no labels."""
    folder(root)
    (root / "list.txt").write_text("".join(f"folder/{name}\n" for name in names()))
    return str(root / "list.txt")


def table(root: Path) -> str:
    """CSV of paths and labels."""
    folder(root)
    rows = [f"folder/{name},{name.split('/')[0]}" for name in names()]
    (root / "table.csv").write_text("\n".join(["path,label", *rows]))
    return str(root / "table.csv")


def parquet(root: Path) -> str:
    """Parquet with the files inside, in several row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": png(name), "path": name} for name in names()]
    labels = [name.split("/")[0] for name in names()]
    pq.write_table(
        pa.table({"image": rows, "label": labels}), root / "images.parquet", row_group_size=5
    )
    return str(root / "images.parquet")


def parquet_paths(root: Path) -> str:
    """Parquet of paths and labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder(root)
    paths = [f"folder/{name}" for name in names()]
    labels = [name.split("/")[0] for name in names()]
    pq.write_table(pa.table({"path": paths, "label": labels}), root / "paths.parquet")
    return str(root / "paths.parquet")


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def tar(root: Path) -> str:
    """One tar of class folders."""
    with tarfile.open(root / "images.tar", "w") as archive:
        for name in names():
            _add(archive, name, png(name))
    return str(root / "images.tar")


def shards(root: Path) -> str:
    """Two tars as WebDataset writes them, with labels beside the images."""
    (root / "shards").mkdir()
    for number in range(2):
        with tarfile.open(root / "shards" / f"{number:06d}.tar", "w") as archive:
            for i, name in list(enumerate(names()))[6 * number : 6 * number + 6]:
                _add(archive, f"{i:08d}.png", png(name))
                _add(archive, f"{i:08d}.cls", name.split("/")[0].encode())
    return str(root / "shards" / "{000000..000001}.tar")


def zipped(root: Path) -> str:
    """A zip, compressed."""
    with zipfile.ZipFile(root / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names():
            archive.writestr(name, png(name))
    return str(root / "images.zip")


def npy(root: Path) -> str:
    """A mapped array; no labels."""
    np.save(root / "images.npy", np.stack([image(name) for name in names()]))
    return str(root / "images.npy")


def npz(root: Path) -> str:
    """Arrays with labels."""
    labels = np.array([CLASSES.index(name.split("/")[0]) for name in names()])
    images = np.stack([image(name) for name in names()])
    np.savez(root / "images.npz", images=images, labels=labels)
    return str(root / "images.npz")


def hub(root: Path) -> str:
    """A folder of Hugging Face's `datasets`."""
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    rows = {
        "image": [{"bytes": png(name), "path": name} for name in names()],
        "label": [CLASSES.index(name.split("/")[0]) for name in names()],
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(root / "hub")
    return str(root / "hub")


def _packed(mode: str) -> Callable[[Path], str]:
    def pack(root: Path) -> str:
        import openmae

        openmae.pack(folder(root), str(root / "packed"), mode=mode, workers=0)
        return str(root / "packed")

    return pack


FORMS: dict[str, Callable[[Path], str]] = {
    "folder": folder,
    "glob": glob,
    "list": listing,
    "csv": table,
    "parquet": parquet,
    "parquet of paths": parquet_paths,
    "tar": tar,
    "shards": shards,
    "zip": zipped,
    "npy": npy,
    "npz": npz,
    "datasets": hub,
    "packed files": _packed("lossless"),
    "packed pixels": _packed("raw"),
}
"""Name -> a function that writes it below a folder and returns what a user would type."""

WITHOUT_LABELS = ("glob", "list", "npy")
