"""The pictures of what a detector found."""

from __future__ import annotations

from pathlib import Path

from openmae.data.source import Source
from openmae.methods.detect import Detector
from openmae.report.display import visible
from openmae.report.objects import draw_found
from openmae.tasks.detection import Found


def draw(
    folder: Path, source: Source, found: Found, model: Detector, threshold: float, what: str
) -> int:
    """Write a picture into `folder` for each image of `found`, named as its path; returns how many.
    Each says `what` the model is.
    """
    folder.mkdir(exist_ok=True)
    names: set[str] = set()
    for record in found:
        stem = Path(record["path"]).with_suffix("").as_posix().replace("/", "-")[-80:]
        name = f"{stem}.png" if f"{stem}.png" not in names else f"{stem}-{record['id']}.png"
        names.add(name)
        picture, words = visible(source[record["id"]]["image"], model.encoder)
        drawn = draw_found(picture, record, model.classes, threshold, what + words)
        drawn.save(folder / name)
    return len(names)
