"""Settings of `openmae data check`."""

from __future__ import annotations

from typing import ClassVar

from openmae.config.base import Settings, setting

LOOK, RUN = "Data", "Run"


class CheckConfig(Settings):
    """Say what a data set holds and what is wrong with it: sizes, types and values, files that
    cannot be read, twins, and how to begin. The data set itself is never written to.
    """

    one_of: ClassVar = (("look", "fraction"),)

    data: str = setting(
        ..., "a folder of images, an archive, table or array of them", LOOK, "free", positional=True
    )
    against: str | None = setting(
        None, "another set, such as the test images: which are in both", LOOK, "free"
    )
    look: int | None = setting(
        None, "how many images, evenly spaced; all by default", LOOK, "free", gt=0
    )
    fraction: float | None = setting(None, "of the images, instead", LOOK, "free", gt=0, le=1)
    near: bool = setting(True, "also images that are almost the same", LOOK, "free")
    out: str | None = setting(
        None, "folder of a report, bad_files.jsonl and duplicates.csv", RUN, "free"
    )
    strict: bool = setting(False, "exit code 3 when files cannot be read", RUN, "free")
    workers: int | None = setting(
        None, "processes; one for each core by default", RUN, "free", ge=0, le=256
    )
