"""The plan of a grid: names, budgets, what is refused, presets; and its statistics."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from openmae.config.ablate import PRESETS as NAMES
from openmae.config.ablate import AblateConfig, Budget, parse_budget, parse_vary
from openmae.config.base import resolve
from openmae.errors import UsageError
from openmae.tasks.ablate import _about, _arms, _budget_of, _score_args
from openmae.tasks.grid import combine, plan
from openmae.tasks.gridrun import note_end
from openmae.tasks.gridstats import holm, marks, spread, welch
from openmae.tasks.gridstudy import require_grid
from openmae.tasks.presets import PAPER, PRESETS, SMALL

BASE = {"data": "photos", "batch_size": 64, "epochs": 3.0, "warmup_epochs": 0.0}


def grid(*varied: str, seeds=2, budget=None, scores=("knn",), args=(), base=BASE):
    arms = combine([parse_vary(v) for v in varied], parse_budget)
    return plan(base, arms, range(seeds), budget, scores, args, "photos", "none")


def test_all_combinations_seed_after_seed():
    made = grid("mask_ratio=0.5,0.75", "lr=1e-3,1e-4,1e-5")
    assert len(made.rows) == 6
    assert len(made.cells) == 12
    assert [c.settings.seed for c in made.cells.values()] == [0] * 6 + [1] * 6
    assert made.rows[4].settings.mask_ratio == 0.75
    assert made.rows[4].settings.lr == 1e-4
    assert made.rows[4].labels == {"mask_ratio": "0.75", "lr": "1e-4"}


def test_names_stand_for_settings_and_not_for_how_a_run_is_run():
    before = set(grid("lr=1e-3").cells)
    assert set(grid("lr=1e-3", base={**BASE, "workers": 3, "keep": 7}).cells) == before
    assert set(grid("lr=1e-3,1e-4").cells) > before
    assert not set(grid("lr=1e-3", base={**BASE, "depth": 3}).cells) & before


def test_scores_of_one_run_share_it():
    made = grid("finetune.blocks=0,1,2", scores=("finetune",), args=("finetune.epochs=2",))
    assert len(made.rows) == 3
    assert len(made.cells) == 2  # one a seed
    cell = next(iter(made.cells.values()))
    assert [s.settings for s in cell.scorings] == [{"epochs": "2", "blocks": b} for b in "012"]
    assert len({s.key for s in cell.scorings}) == 3


@pytest.mark.parametrize(
    ("budget", "steps"),
    [("steps=40", 40), ("images=6400", 100), ("images=6401", 101), ("640 images", 10)],
)
def test_budgets_in_steps(budget, steps):
    made = grid("lr=1e-3", budget=parse_budget(budget))
    config = next(iter(made.cells.values())).settings
    assert (config.steps, config.epochs) == (steps, None)


def test_a_varied_length_counts_before_the_common_one():
    made = grid("epochs=1,2", budget=Budget("steps", 40))
    assert [row.settings.epochs for row in made.rows] == [1, 2]
    made = grid("budget=steps=5,images=128", budget=Budget("steps", 40))
    assert [row.settings.steps for row in made.rows] == [5, 2]


def test_arguments_of_targets_and_methods_by_name():
    made = grid("target_args.components=4,8", base={**BASE, "target": "pca"})
    assert [row.settings.target_args for row in made.rows] == [("components=4",), ("components=8",)]
    base = {**BASE, "method": "simclr", "method_args": ["temperature=0.1", "hidden=8"]}
    made = grid("method_args.temperature=0.2", base=base)
    assert made.rows[0].settings.method_args == ("temperature=0.2", "hidden=8")


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ("maskratio=0.5", "Did you mean mask_ratio?"),
        ("mask_ratio=0.5,75", "mask_ratio=75: mask_ratio 75: give a fraction, 0.75?"),
        ("mask=rnd", "mask=rnd"),
        ("seed=1,2", "a grid decides that itself"),
        ("out=a,b", "a grid decides that itself"),
        ("knn.kk=3", "Did you mean k?"),
        ("probe.pool=cls", "add --score probe"),
        ("knn.k=0", "--score-args knn.k"),
        ("budget=hours=3", "should be steps=4000"),
    ],
)
def test_what_is_refused_before_anything_starts(vary, words):
    def whole():
        arms = combine([parse_vary(vary)], _budget_of)
        plan(BASE, arms, range(1), None, ("knn",), (), "photos", "none")

    with pytest.raises(UsageError) as found:
        whole()
    assert words in str(found.value)


def test_what_cannot_be_built_is_refused_with_its_row(tmp_path, make_images):
    data = str(make_images(tmp_path / "photos" / "a") and make_images(tmp_path / "photos" / "b"))
    base = {**BASE, "data": data, "dim": 16, "heads": 2, "depth": 1, "decoder_dim": 16}
    made = grid("heads=2,3", base=base)
    with pytest.raises(UsageError, match="heads=3: "):
        require_grid(made)


def test_a_recipe_may_have_what_means_nothing_to_a_method(tmp_path, make_images):
    """As of pretrain: only what was typed or is varied is refused."""
    data = str(make_images(tmp_path / "photos" / "a") and make_images(tmp_path / "photos" / "b"))
    base = {**BASE, "data": data, "dim": 16, "heads": 2, "depth": 1, "decoder_dim": 16}
    arms = combine([parse_vary("method=mae,simclr")], parse_budget)
    rest = (range(1), None, ("knn",), (), str(tmp_path / "photos"), "none")
    require_grid(plan(base, arms, *rest, typed=["data", "dim"]))
    with pytest.raises(UsageError, match="method=simclr: --decoder-dim means nothing"):
        require_grid(plan(base, arms, *rest, typed=["data", "decoder_dim"]))
    both = combine([parse_vary("method=mae,simclr"), parse_vary("decoder_dim=16,32")], parse_budget)
    with pytest.raises(UsageError, match=r"method=simclr .*--decoder-dim means nothing"):
        require_grid(plan(base, both, *rest, typed=["data"]))


def test_a_varied_setting_has_no_value_for_all_rows():
    base = {**BASE, "patch_size": 4, "dim": 16}
    config = resolve(AblateConfig, {"data": "photos", "vary": ["patch_size=2,4"]})
    said = _about(config, None, base, grid("patch_size=2,4", base=base))["base"]
    assert said["dim"] == 16
    assert "patch_size" not in said


# Presets.


def test_every_preset_is_there():
    assert set(PRESETS) == set(NAMES)


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("name", [n for n in NAMES if n != "transfer"])
def test_presets_resolve(name, paper):
    preset = PRESETS[name]
    words = {"data": "photos", "preset": name, "paper": paper}
    config = resolve(AblateConfig, words)
    scores = preset.paper_scores if paper else preset.small_scores
    base = {**(PAPER if paper else SMALL), "data": "photos"}
    budget = None if paper else parse_budget(preset.small_budget)
    args = _score_args(config.model_copy(update={"score": scores}), preset)
    made = plan(base, _arms(config, preset), range(3), budget, scores, args, "photos", name)
    assert len(made.rows) >= 2
    if paper:
        assert {r.settings.image_size for r in made.rows} == {224}


# Statistics.


def test_the_interval_is_students():
    values = [0.61, 0.64, 0.6, 0.66]
    found = spread(values)
    mean, error = np.mean(values), stats.sem(values)
    low, high = stats.t.interval(0.95, 3, mean, error)
    assert (found.mean, found.low, found.high) == pytest.approx((mean, low, high))
    assert spread([0.5]).low is None
    assert spread([0.99, 0.5]).high == 1.0


def test_welch_is_scipys():
    a, b = [0.61, 0.64, 0.6], [0.55, 0.58, 0.5, 0.56]
    assert welch(a, b) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert welch([0.5], [0.4, 0.3]) is None
    assert welch([0.5, 0.5], [0.5, 0.5]) == 1
    assert welch([0.5, 0.5], [0.4, 0.4]) == 0


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_marks():
    rows = {0: [0.5, 0.51, 0.5], 1: [0.7, 0.71, 0.7], 2: [0.69, 0.72, 0.68], 3: [0.6]}
    found = marks(rows)
    assert {i: m for i, (m, _) in found.items()} == {
        0: "lower", 1: "best", 2: "not separable", 3: "one seed",
    }  # fmt: skip
    assert marks({0: [0.5, 0.6]}) == {0: ("", None)}


@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [
        (75, "stopped", "asked to stop"),
        (-15, "stopped", "asked to stop"),  # by us, before it had loaded what saves
        (-9, "failed", "signal 9"),
        (3, "failed", "what it said"),
        (6, "diverged", "what it said"),
    ],
)
def test_how_a_cell_ended(code, state, reason, tmp_path):
    found = note_end(tmp_path, code, "what it said")
    assert (found["state"], found["reason"]) == (state, reason)
    assert json.loads((tmp_path / "ended.json").read_text())["state"] == state
