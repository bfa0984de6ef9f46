"""Settings of `openmae report`, and those that `openmae watch` shares with it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from openmae.config.base import Settings, setting

PAGE = "Run"
Runs = Annotated[tuple[str, ...], Field(min_length=1, max_length=40)]
Axis = Literal["auto", "steps", "images", "epochs", "hours"]


class ReportConfig(Settings):
    """One page of a run, or of several side by side: state, curves, reconstructions, scores, data,
    settings. One HTML file without anything from outside, made from the run folder alone, also of
    a run that goes on, stopped or failed.
    """

    runs: Runs = setting(..., "run folders", PAGE, "free", positional=True)
    out: str | None = setting(
        None, "file.html; RUN/report.html by default, report.html here for several runs", PAGE,
        "free", short="-o",
    )  # fmt: skip
    axis: Axis = setting(
        "auto", "of the curves: steps, images, epochs or hours; auto is steps, or images for"
        " several runs", PAGE, "free",
    )  # fmt: skip
    figures: str | None = setting(
        None, "also write each curve as PNG and SVG into this folder", PAGE, "free"
    )
