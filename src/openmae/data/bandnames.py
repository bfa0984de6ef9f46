"""Names of the bands of a TIFF, where its metadata have them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from openmae.data import tiff as tiffs
from openmae.data import tiffpage

_MAX_TEXT = 16 * 1024**2  # of metadata
_GDAL_METADATA = 42112


def read_band_names(data: bytes) -> list[str]:
    """One name a band, in order, from OME-XML channels, ImageJ's labels or GDAL's descriptions;
    empty where there are none, not one for each band, or the file cannot be read.
    """
    if data[:4] not in tiffs.MAGIC:
        return []
    try:
        with tiffs.opened(data) as tiff:
            planes = tiffs.find_planes(tiff)
            tiffpage.require_bounded(planes.page, planes.number, len(data))
            count = tiffpage.channels(planes.page) * planes.number
            for names in (_ome(tiff), _imagej(tiff, planes.indices), _gdal(planes.page)):
                if len(names) == count and any(names):
                    return names
    except Exception:  # metadata of others may be anything; without names bands are numbered
        return []
    return []


def _ome(tiff: Any) -> list[str]:
    text = tiff.ome_metadata
    if not text or len(text) > _MAX_TEXT:
        return []
    for pixels in ElementTree.fromstring(text).iter():
        if pixels.tag.rpartition("}")[2] == "Pixels":
            found = [e for e in pixels if e.tag.rpartition("}")[2] == "Channel"]
            return [e.get("Name") or "" for e in found]
    return []


def _imagej(tiff: Any, indices: tuple[int, ...]) -> list[str]:
    labels = (tiff.imagej_metadata or {}).get("Labels") or []
    return [str(labels[i]).strip() for i in indices] if len(labels) > max(indices) else []


def _gdal(page: Any) -> list[str]:
    tag = page.tags.get(_GDAL_METADATA)
    if tag is None or len(tag.value) > _MAX_TEXT:
        return []
    found: dict[int, str] = {}
    for item in ElementTree.fromstring(tag.value.rstrip("\0")).iter("Item"):
        if item.get("role") == "description":
            found[int(item.get("sample") or 0)] = (item.text or "").strip()
    return [found.get(i, "") for i in range(max(found, default=-1) + 1)]
