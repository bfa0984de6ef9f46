"""Settings of `openmae watch`."""

from __future__ import annotations

from openmae.config.base import Settings, setting
from openmae.config.report import PAGE, Axis, Runs


class WatchConfig(Settings):
    """The page of `openmae report` in the browser, while the run goes on: served to this computer
    alone, at an address with a random token. Only reads; Ctrl-C ends it.
    """

    runs: Runs = setting(
        ..., "run folders; one that is not there yet is waited for", PAGE, "free", positional=True
    )
    port: int = setting(0, "to serve at; 0 is a free one", PAGE, "free", ge=0, le=65535)
    axis: Axis = setting(
        "auto", "of the curves: steps, images, epochs or hours; auto is steps, or images for"
        " several runs", PAGE, "free",
    )  # fmt: skip
    every: float = setting(5.0, "seconds between two looks", PAGE, "free", ge=1, le=3600)
