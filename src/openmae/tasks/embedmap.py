"""The map of `openmae embed`: a picture, or a page with small pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from openmae.config.evaluate import EmbedConfig
from openmae.data.source import Source
from openmae.data.transforms import EvalTransform
from openmae.engine.features import Features
from openmae.errors import DataError
from openmae.models.encoder import Encoder
from openmae.report.explorerpictures import thumbnail
from openmae.report.map import draw_map
from openmae.report.mappage import map_page
from openmae.tasks.neighbours import plane

_HOW = {"tsne": "t-SNE", "pca": "PCA"}
_MEANS = {
    "tsne": "t-SNE keeps neighbours together; how far apart groups lie, and how large they are,"
    " says little.",
    "pca": "The two directions in which the vectors differ most; much of them is not seen.",
}


def write_map(
    found: Features, config: EmbedConfig, source: Source, encoder: Encoder, what: str, path: Path
) -> None:
    """Lay the vectors out and write what the name asks for: .png or .html; `what` was pooled."""
    points = plane(found.vectors, config.map_method)
    title = f"{len(points):,} images by {_HOW[config.map_method]} of {what}"
    if Path(config.map or "").suffix == ".png":
        draw_map(points, found.labels, source.classes, title, path)
        return
    page = map_page(
        points,
        found.labels,
        source.classes,
        found.paths,
        _pictures(found, source, encoder),
        title,
        _MEANS[config.map_method],
    )
    path.write_text(page, encoding="utf-8")


def _pictures(found: Features, source: Source, encoder: Encoder) -> Callable[[int], bytes | None]:
    """A function from a row to what the encoder saw of its image, as a thumbnail."""
    rows = {source.path(i): i for i in range(len(source))}
    transform = EvalTransform(encoder.image_size)

    def picture(row: int) -> bytes | None:
        try:
            image = source[rows[found.paths[row]]]["image"]
        except DataError:
            return None
        return thumbnail(transform(image).numpy(), encoder)

    return picture
