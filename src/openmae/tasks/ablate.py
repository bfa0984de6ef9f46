"""`openmae ablate`: a grid of settings and seeds, pretrained, scored, and compared honestly. The
same command again does what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmae.config.ablate import AblateConfig, Budget, parse_budget, parse_score, parse_vary
from openmae.config.base import Options, shown
from openmae.data.sources import short_name
from openmae.engine.runfolder import Results
from openmae.engine.textfile import write_text
from openmae.errors import UsageError
from openmae.report.ablation import page, plot
from openmae.tasks.grid import Arm, Grid, combine, cross, plan
from openmae.tasks.gridstudy import ONCE, base_of, split_data, study_of, told_plan
from openmae.tasks.presets import PAPER, PRESETS, SMALL, Preset


def run(config: AblateConfig, options: Options) -> Results:
    """Run the grid, or what is missing of it; exit code 75 after an early stop."""
    preset = PRESETS[config.preset] if config.preset else None
    given = "score" in config.model_fields_set
    if preset is not None and not given:
        scores = preset.paper_scores if config.paper else preset.small_scores
        config = config.model_copy(update={"score": scores})
    data, labelled = split_data(config.data)
    base, recipe = base_of(config, data, options, _settings(config, preset))
    grid = plan(
        base,
        _arms(config, preset),
        range(config.seed, config.seed + config.seeds),
        _budget(config, preset),
        config.score,
        _score_args(config, preset),
        labelled,
        recipe,
        options.typed,
    )
    name = config.preset or short_name(config.data)
    out = Path(config.out or f"runs/ablate-{name}").expanduser()
    about = _about(config, preset, base, grid)
    if options.dry_run:
        return told_plan(grid, out, config)
    return study_of(config, grid, out, "ablation", about, write_page)


def _settings(config: AblateConfig, preset: Preset | None) -> Mapping[str, Any] | None:
    """The preset's settings, below what was typed; None without a preset."""
    if preset is None:
        return None
    return {**(PAPER if config.paper else SMALL), **preset.base}


def _arms(config: AblateConfig, preset: Preset | None) -> list[Arm]:
    varied = combine([parse_vary(word) for word in config.vary], _budget_of)
    if preset is None:
        return varied
    arms = preset.paper if config.paper else preset.small
    if not arms and not config.vary:
        raise UsageError("--preset transfer: give the sets to pretrain on: --vary data=A,B")
    return cross(arms, varied) if arms else varied


def _budget_of(text: str) -> Budget:
    try:
        return parse_budget(text)
    except ValueError as error:
        raise UsageError(f"--vary budget={text}: {error}") from None


def _budget(config: AblateConfig, preset: Preset | None) -> Budget | None:
    """What was typed, or the preset's at small size; None leaves it to steps or epochs."""
    if config.budget is not None:
        return parse_budget(config.budget)
    typed = config.model_fields_set & {"steps", "epochs"}
    return None if typed or preset is None or config.paper else parse_budget(preset.small_budget)


def _score_args(config: AblateConfig, preset: Preset | None) -> tuple[str, ...]:
    if preset is None or config.paper:
        return config.score_args
    kinds = {word.partition(":")[0] for word in config.score}
    own = [word for word in preset.small_args if word.partition(".")[0] in kinds]
    return (*own, *config.score_args)


def _alike(grid: Grid, name: str) -> bool:
    """Whether all rows have the same value of a setting."""
    return len({shown(getattr(row.settings, name)) for row in grid.rows}) == 1


def _about(
    config: AblateConfig, preset: Preset | None, base: Mapping[str, Any], grid: Grid
) -> dict[str, Any]:
    """What the table says of itself."""
    title = (
        f"{config.preset}: {preset.what}"
        if preset
        else " x ".join(parse_vary(word).name for word in config.vary)
    )
    budgets = sorted({row.budget for row in grid.rows})
    notices = []
    if preset is not None:
        size = "the paper's setting" if config.paper else "CPU size, not the paper's"
        notices.append(f"in the paper (ViT-L, ImageNet): {preset.found}; here: {size}")
    own = all(parse_score(word).data for word in config.score)  # images that scores name
    if base["data"] == config.data and not own:
        notices.append("pretraining saw all images of the folder, tested ones too, without labels")
    if len({row.settings.target for row in grid.rows}) > 1:
        notices.append("losses of different targets cannot be compared")
    chosen = [n for n in base if n != "data" and (n, base[n]) not in ONCE.items()]
    return {
        "title": title,
        "data": config.data,
        "budget": budgets[0] if len(budgets) == 1 else "by row",
        "seeds": list(range(config.seed, config.seed + config.seeds)),
        "base": {n: base[n] for n in chosen if _alike(grid, n)},
        "notices": notices,
    }


def write_page(folder: Path, table: Mapping[str, Any]) -> list[str]:
    """ablation.html and ablation.png; returns their names."""
    picture = plot(table)
    (folder / "ablation.png").write_bytes(picture)
    write_text(folder / "ablation.html", page(table, [picture], "openmae ablate"))
    return ["ablation.html", "ablation.png"]
