"""Sources of images, decoding, crops, and the loader: everything between a folder and a batch."""

from __future__ import annotations

from openmae.data.sources import Sample, Source, open_source, open_split

__all__ = ["Sample", "Source", "open_source", "open_split"]
