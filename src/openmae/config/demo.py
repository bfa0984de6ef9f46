"""Settings of `openmae demo`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from openmae.config.base import Settings, setting
from openmae.config.fields import any_device
from openmae.loopback import LOOPBACK

MODEL, LOOK, RUN = "Model", "Data", "Run"


class DemoConfig(Settings):
    """A page in the browser: hide patches of an image, also with the brush, and see what the model
    fills in. Only this computer can reach it, and nothing is sent anywhere.
    """

    model: str = setting(..., "a run folder", MODEL, "free", positional=True)
    images: tuple[str, ...] = setting(
        (),
        "images to choose from: files, a folder, the word digits; the run's own by default",
        LOOK,
        "free",
        positional=True,
    )
    embeddings: str | None = setting(
        None, "vectors of embed (.npz, .parquet): shows the nearest images", LOOK, "free"
    )
    embedded: str | None = setting(
        None, "the DATA that was embedded, for its pictures; the run's by default", LOOK, "free"
    )
    static: str | None = setting(
        None, "write one .html file with precomputed masks of IMAGES instead", RUN, "free"
    )
    max_images: int = setting(8, "of that file", RUN, "free", gt=0, le=64)
    port: int = setting(7861, "of the server; 0 for any free one", RUN, "free", ge=0, le=65535)
    host: str = setting("127.0.0.1", "address to listen on", RUN, "free")
    allow_remote: bool = setting(False, "other computers may reach --host", RUN, "free")
    browser: bool = setting(False, "open the page in a browser", RUN, "free")
    device: str = any_device()

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.host not in LOOPBACK and not self.allow_remote:
            yield (
                "host",
                ": other computers could reach that. Add --allow-remote if they may, or use an SSH"
                " tunnel to 127.0.0.1",
            )
        if self.static is not None and Path(self.static).suffix != ".html":
            yield "static", ": the name must end in .html"
        if self.embeddings is not None:
            if Path(self.embeddings).suffix not in (".npz", ".parquet"):
                yield "embeddings", ": the name must end in .npz or .parquet"
            if self.static is not None:
                yield "embeddings", ": a file of --static shows no neighbours. Drop one"
        elif self.embedded is not None:
            yield "embedded", " is the data of --embeddings FILE. Add that, or drop this"
