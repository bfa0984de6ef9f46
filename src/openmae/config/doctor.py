"""Settings of `openmae doctor`."""

from __future__ import annotations

from openmae.config.base import Settings, setting

RUN = "Run"


class DoctorConfig(Settings):
    """Check this machine and installation: versions, devices, disk, memory, two ranks that talk to
    each other, a short run, and one that is killed and goes on. Leaves nothing behind.
    """

    out: str = setting("runs", "folder in which runs will be kept: its disk is tried", RUN, "free")
    quick: bool = setting(False, "leave out the short run and the killed one", RUN, "free")
    report: str | None = setting(
        None, "also write the block for a bug report to this file", RUN, "free"
    )
    device: str = setting("auto", "of the short run: auto, cpu, cuda, cuda:N or mps", RUN, "free")
