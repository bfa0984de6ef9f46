"""`openmae report`: a page of a run, or of several, from their folders alone."""

from __future__ import annotations

from pathlib import Path

from openmae.config.base import Options
from openmae.config.report import ReportConfig
from openmae.engine.log import say, warn
from openmae.engine.runfolder import CONFIG, Results, gigabytes
from openmae.engine.textfile import write_text
from openmae.errors import StorageError, UsageError
from openmae.report.rundata import state_of
from openmae.tasks.runpages import drawn, page_of, paths_of, read_runs, require_run


def run(config: ReportConfig, options: Options) -> Results:
    """Write the page; returns where, and what was in it."""
    paths = paths_of(config.runs)
    for path in paths:
        require_run(path)
    out = _out(config, paths)
    if config.figures is not None:
        _require_figures(Path(config.figures).expanduser())
    runs = read_runs(paths)
    for one in runs:
        _, _, told = state_of(one)
        say("Run", f"{one.name}: {told.splitlines()[0]}")
        for line in one.problems[:3]:
            warn(f"{one.name}: {line}")
    panels = drawn(runs, config.axis)
    results = Results({"runs": len(runs), "curves": len(panels), "rows": sum(
        r.metrics.lines for r in runs)}, out.parent)  # fmt: skip
    if options.dry_run:
        say("Dry run", f"would write {out}; nothing was written")
        results["dry_run"] = True
        return results
    text = page_of(runs, config.axis)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    results |= {"report": str(out), "bytes": len(text.encode())}
    say("Report", f"{out}   ({gigabytes(len(text.encode()))}, {len(panels)} curves)")
    if config.figures is not None:
        from openmae.report.chartfiles import write_figures

        files = write_figures(panels, Path(config.figures).expanduser())
        results["figures"] = files
        say("Figures", f"{len(files)} files in {config.figures}")
    return results


def _out(config: ReportConfig, paths: list[Path]) -> Path:
    if config.out is None:
        return paths[0] / "report.html" if len(paths) == 1 else Path("report.html")
    out = Path(config.out).expanduser()
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {config.out}: should be a file that ends in .html")
    if out.is_dir():
        raise StorageError(f"{out} is a folder. Give a file in it: {out / 'report.html'}")
    return out


def _require_figures(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"--figures {folder} is a file. Give a folder")
    if (folder / CONFIG).exists():
        raise StorageError(f"--figures {folder} is a run folder. Give a new folder in it")
