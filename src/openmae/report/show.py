"""`openmae.show`: a run, results, a model or a picture, in a notebook or anywhere else."""

from __future__ import annotations

import base64
import importlib
import io
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.engine.runfolder import CONFIG, Results, RunFolder, read_jsonl
from openmae.errors import DataError, UsageError
from openmae.reprs import escaped, lines, shown, table

_KINDS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}
_MOST_BYTES = 20_000_000  # of a picture file that is put into a notebook
_MOST_IMAGES = 16  # of a batch


class Shown:
    """What `show` made: text where there is only text, tables and pictures in a notebook.

    Attributes:
        pictures: (name, kind, bytes of the file) of each.
    """

    def __init__(
        self,
        title: str,
        values: Mapping[str, object],
        pictures: Sequence[tuple[str, str, bytes]] = (),
    ) -> None:
        self.title, self.values, self.pictures = title, dict(values), tuple(pictures)

    def __repr__(self) -> str:
        names = [f"  {shown(name)}" for name, _, _ in self.pictures]
        return "\n".join([shown(self.title), *lines(self.values), *names])

    def _repr_html_(self) -> str:
        parts = [table(self.values, self.title)] if self.values or not self.pictures else []
        for name, kind, data in self.pictures:
            told = base64.b64encode(data).decode()
            alt = escaped(name)
            parts.append(
                f'<p><img alt="{alt}" style="max-width:100%"'
                f' src="data:image/{kind};base64,{told}"><br>{alt}</p>'
            )
        return "".join(parts)


def show(thing: Any) -> Any:
    """Show a run folder (its curves and last reconstruction), results (a table), a model, or a
    picture: a path, a PIL image, an array (H, W) or (H, W, C), or a tensor (C, H, W) or
    (B, C, H, W).

    A notebook displays it, and nothing is returned. A script prints what it is and where its files
    are; it is returned there, and in an interactive Python, which prints it itself.

    Raises:
        UsageError: it is nothing of these.
        DataError: a file cannot be read.
    """
    found = _shown(thing)
    if _in_notebook():
        importlib.import_module("IPython.display").display(found)
        return None
    if not hasattr(sys, "ps1"):
        print(found)
    return found


def _in_notebook() -> bool:
    module = sys.modules.get("IPython")  # a notebook has imported it
    shell = module.get_ipython() if module is not None else None
    return shell is not None and hasattr(shell, "kernel")


def _shown(thing: Any) -> Any:
    if isinstance(thing, Results) or (
        hasattr(thing, "_repr_html_") and not isinstance(thing, Image.Image)
    ):
        return thing
    if isinstance(thing, str | Path):
        return _of_path(Path(thing).expanduser())
    if isinstance(thing, Image.Image):
        return Shown(f"picture, {thing.width} x {thing.height} px", {}, [_png("picture", thing)])
    if hasattr(thing, "detach"):
        thing = _tensor(thing)
    if isinstance(thing, np.ndarray):
        return _of_array(thing)
    raise UsageError(
        f"show: {type(thing).__name__} is no run folder, results, model, picture, array or tensor"
    )


def _of_path(path: Path) -> Shown:
    if (path / CONFIG).is_file():
        return _of_run(RunFolder(path))
    if path.is_file() and path.suffix.lower() in _KINDS:
        return Shown(str(path), {}, [_file(path)])
    if not path.exists():
        raise DataError(f"{path} does not exist")
    raise UsageError(f"show {path}: is no run folder and no picture (.png, .jpg, .webp, .gif)")


def _of_run(folder: RunFolder) -> Shown:
    """State, last numbers, curves and the last reconstruction of a run, also while it goes on."""
    values: dict[str, object] = {}
    status = folder.read_status()
    if status:
        values["state"] = status.get("state", "?")
        values["step"] = f"{status.get('step', '?')} of {status.get('total', '?')}"
    rows = read_jsonl(folder.metrics)
    for name in ("loss", "val_loss", "test_loss", "knn_accuracy", "test_accuracy"):
        last = [row[name] for row in rows if row.get(name) is not None]
        values |= {name: last[-1]} if last else {}
    pictures = _curves(folder)
    steps = [p for p in folder.pictures.glob("step_*.png") if re.fullmatch(r"step_\d+", p.stem)]
    if steps:
        pictures.append(_file(max(steps, key=lambda p: int(p.stem.removeprefix("step_")))))
    return Shown(f"Run {folder.path}", values, pictures)


def _curves(folder: RunFolder) -> list[tuple[str, str, bytes]]:
    """pictures/loss.png as it would be now; nothing is written into the run."""
    from openmae.report.figures import plot_curves  # with matplotlib

    with tempfile.TemporaryDirectory() as place:
        copy = RunFolder(folder.path, writes=False)
        copy.pictures = Path(place)
        plot_curves(copy)
        made = copy.pictures / "loss.png"
        name = str(folder.pictures / "loss.png")
        return [(name, "png", made.read_bytes())] if made.exists() else []


def _file(path: Path) -> tuple[str, str, bytes]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path} has more than {_MOST_BYTES / 1e6:.0f} MB")
        return str(path), _KINDS[path.suffix.lower()], path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _png(name: str, image: Image.Image) -> tuple[str, str, bytes]:
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG")
    return name, "png", file.getvalue()


def _tensor(tensor: Any) -> NDArray[Any]:
    """(C, H, W) or (B, C, H, W) -> (H, W, C), a batch side by side."""
    array: NDArray[Any] = (
        tensor.detach().float().cpu().numpy()
        if (tensor.is_floating_point())
        else tensor.cpu().numpy()
    )
    if array.ndim == 4:
        array = np.concatenate(list(array[:_MOST_IMAGES]), axis=2)
    return np.moveaxis(array, 0, 2) if array.ndim == 3 else array


def _of_array(array: NDArray[Any]) -> Shown:
    """(H, W) or (H, W, C): 8-bit values, or [0, 1]; others from their least to their largest."""
    if array.ndim not in (2, 3) or not array.size:
        raise UsageError(f"show: an array of shape {array.shape} is no picture")
    size, note = f"{array.shape[0]} x {array.shape[1]}", ""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim == 3:
        array = array[..., :3] if channels >= 3 else array[..., 0]
        note = f", the first {array.shape[2] if array.ndim == 3 else 1} of {channels} channels"
        note = note if channels not in (1, 3) else ""
    if array.dtype != np.uint8:
        values = array.astype(np.float64)
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        if low < 0 or high > 1:
            note += f", values {low:.4g} to {high:.4g} from black to white"
            values = (values - low) / max(high - low, 1e-12)
        array = np.rint(np.clip(np.nan_to_num(values, nan=0.5), 0, 1) * 255).astype(np.uint8)
    title = f"picture, {size} px{note}"
    return Shown(title, {}, [_png(title, Image.fromarray(np.ascontiguousarray(array)))])
