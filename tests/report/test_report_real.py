"""The page of a run that was really made and continued, by the command that the page names."""

from __future__ import annotations

import html
import json
import re
import shlex

import numpy as np
from pages import sound
from PIL import Image
from tiny_options import TINY

from openmae.cli import main


def test_a_run_its_page_and_the_command_on_it(tmp_path, capsys):
    photos, out = tmp_path / "my photos", tmp_path / "run"
    photos.mkdir()
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (40, 44, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photos / f"{i}.png")
    assert main(["pretrain", str(photos), "--out", str(out), *TINY, "--steps", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"         openmae report {out}"
    assert not (out / "restarts.jsonl").exists()
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Finished at step 2 of 2." in sound(page).words
    words = [
        shlex.split(html.unescape(line))[1:]
        for line in re.findall("<pre><code>(openmae [^<]*)</code>", page)
    ]
    again = next(w for w in words if w[0] == "pretrain")
    assert main(again) == 0
    assert "finished at step 2" in capsys.readouterr().out
    assert main([*again, "--steps", "4", "--allow-change", "steps"]) == 0
    rows = [json.loads(line) for line in (out / "restarts.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2]
    look = next(w for w in words if w[0] == "embed")
    assert main([*look[:-1], str(tmp_path / "features.npz")]) == 0
    assert main(["report", str(out)]) == 0
    told = sound((out / "report.html").read_text(encoding="utf-8")).words
    assert "continued at step 2" in told
