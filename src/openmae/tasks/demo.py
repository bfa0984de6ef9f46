"""`openmae demo`: the reconstruction explorer, served or as one file."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import webbrowser
from pathlib import Path
from typing import Any

from openmae.config import settings
from openmae.config.base import Options
from openmae.config.demo import DemoConfig
from openmae.config.pretrain import PretrainConfig
from openmae.data.folder import FolderSource
from openmae.data.source import Source
from openmae.engine.device import resolve_device
from openmae.engine.log import say, warn
from openmae.engine.runfolder import Results, RunFolder
from openmae.errors import OpenMAEError, StorageError, UsageError
from openmae.loopback import LOOPBACK
from openmae.methods.mae import MAE
from openmae.report.explorer import Explorer
from openmae.report.explorerpage import static_page
from openmae.tasks.decoding import decoding_of, require_fit
from openmae.tasks.demoimages import Offered, embedded_in, offered
from openmae.tasks.pretrain import open_data
from openmae.tasks.reading import dry
from openmae.tasks.reconstruct import pictured
from openmae.weights import Loaded
from openmae.weights.steps import Steps


def run(config: DemoConfig, options: Options) -> Results:
    """Serve the page until Ctrl-C, or write it; returns what was asked for and refused."""
    if config.static is None:
        _require_web()
    device = resolve_device(config.device)
    loaded, method = pictured(config.model, "demo")
    found = _images(config, loaded, method)
    if found is None and config.static is not None:
        raise UsageError("--static needs images. Give some, or a folder of them")
    source = None if found is None else found.source
    explorer = Explorer(
        Steps(loaded, device),
        config.model,
        loaded.what,
        decoding_of(method.encoder),
        source,
        found.about if found else "",
        found.word if found else None,
        embedded_in(config, method.encoder, source),
    )
    if config.static is not None:
        return _write(config.static, config.max_images, explorer, options)
    return _serve(config, explorer, options)


def _require_web() -> None:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise UsageError(
            'demo needs FastAPI and uvicorn: pip install "openmae[demo]". --static needs neither'
        ) from None


def _images(config: DemoConfig, loaded: Loaded, method: MAE) -> Offered | None:
    """The images to choose from: those that are named, or the run's held-out or training images."""
    reads = decoding_of(method.encoder)
    if config.images:
        return offered(config.images, reads, method.encoder)
    try:
        return _of_run(loaded, method)
    except OpenMAEError as error:
        first = str(error).splitlines()[0]
        warn(f"the run's images are not there: {first}. Drop your own on the page")
        return None


def _of_run(loaded: Loaded, method: MAE) -> Offered | None:
    if loaded.run is None or not (loaded.run / "config.yaml").is_file():
        return None
    values = RunFolder(loaded.run).read_config()
    if values.get("task") != "pretrain":
        return None
    values = {k: v for k, v in values.items() if k in settings("pretrain").model_fields}
    config = PretrainConfig(**values)
    source, held_out = open_data(config, decoding_of(method.encoder))
    chosen: Source = source if held_out is None else held_out
    what = "training" if held_out is None else "held-out"
    require_fit(chosen, method.encoder)
    root = chosen.root if isinstance(chosen, FolderSource) else None
    word = (lambda i: str(root / chosen.path(i))) if root else (lambda i: None)
    return Offered(chosen, f"{what} images of the run", word)


def _write(name: str, most: int, explorer: Explorer, options: Options) -> Results:
    path = Path(name).expanduser()
    if not path.parent.is_dir():
        raise StorageError(f"{path.parent} does not exist. Make it first, or name another")
    assert explorer.source is not None
    count = min(most, len(explorer.source))
    if options.dry_run:
        return dry()
    if count < len(explorer.source):
        warn(f"{len(explorer.source):,} images, the first {count} are in the file (--max-images)")
    page = static_page(explorer, count, progress=lambda done: say("", done))
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from None
    size = path.stat().st_size
    say("Out", f"{path}   {count} images, {size / 1e6:.1f} MB; needs no server and no network")
    return Results({"n": count, "bytes": size}, path.parent)


def _serve(config: DemoConfig, explorer: Explorer, options: Options) -> Results:
    from openmae.report import demoserver

    listening = demoserver.listen(config.host, config.port)
    port = listening.getsockname()[1]
    if options.dry_run:
        listening.close()
        return dry()
    token = secrets.token_urlsafe(24)
    desk = demoserver.Desk(explorer)
    app = demoserver.guarded(desk, token, port, config.host)
    address = _say(config, port, token)
    try:
        if config.browser and sys.stdout.isatty():
            with contextlib.suppress(webbrowser.Error):
                webbrowser.open(address)
        demoserver.server(app).run(sockets=[listening])
    finally:
        desk.close()
        listening.close()
    say("Done", f"{desk.asked:,} answers, {app.refused:,} requests refused")
    values: dict[str, Any] = {"answers": desk.asked, "refused": app.refused}
    return Results(values)


def _say(config: DemoConfig, port: int, token: str) -> str:
    """Tell where the page is; returns its address."""
    from openmae.report.demoserver import tunnel

    host = "127.0.0.1" if config.host in ("localhost", "0.0.0.0", "::") else config.host
    host = f"[{host}]" if ":" in host else host
    address = f"http://{host}:{port}/?t={token}"
    own = config.host in LOOPBACK
    reach = "this computer only; nothing is uploaded" if own else "whoever has the address"
    say("Demo", f"{address}   {reach}")
    if own:
        say("", f"from another computer: {tunnel(port)}   and then the same address there")
    else:
        warn(f"--allow-remote: {config.host} is open to the network, without encryption")
    say("", "Ctrl-C ends it")
    return address
