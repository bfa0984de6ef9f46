"""Mistakes in the words of `openmae slurm` and `openmae doctor`: each is made, its message read,
and its fix followed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

JOB = "pretrain photos --recipe laptop --out runs/x"
MISTAKES = [
    # words, what is said, exit code, words that the message leads to
    ("slurm", "COMMAND is missing", 2, f"slurm -- {JOB}"),
    (f"slurm --nodes 2 {JOB}", "Put -- before the command", 2, f"slurm --nodes 2 -- {JOB}"),
    (
        "slurm -- pretrain photos --out runs/x --epoch 3",
        "in the command behind --: --epoch is not an option of pretrain. Did you mean --epochs?",
        2,
        "slurm -- pretrain photos --out runs/x --epochs 3",
    ),
    ("slurm -- pretain photos", "did you mean pretrain?", 2, f"slurm -- {JOB}"),
    (
        f"slurm -- {JOB} --mask-ratio 75",
        "--mask-ratio 75: give a fraction, 0.75?",
        2,
        f"slurm -- {JOB} --mask-ratio 0.75",
    ),
    (f"slurm -- {JOB.replace('laptop', 'laptp')}", "Did you mean laptop?", 2, f"slurm -- {JOB}"),
    ("slurm -- pretrain photos", "Add --out runs/NAME", 2, "slurm -- pretrain photos --out runs/x"),
    (
        "slurm --nodes 2 -- inspect runs/x",
        "Give --nodes 1 --gpus-per-node 1",
        2,
        "slurm --nodes 1 --gpus-per-node 1 -- inspect runs/x",
    ),
    ("slurm -- slurm x", "slurm is no command for a job", 2, f"slurm -- {JOB}"),
    (
        f"slurm --gpus-per-node 4 -- {JOB} --device cpu",
        "Give --gpus-per-node 0",
        2,
        f"slurm --gpus-per-node 0 -- {JOB} --device cpu",
    ),
    (
        f"slurm --gpus-per-node 0 -- {JOB} --device cuda",
        "--gpus-per-node is 0",
        2,
        f"slurm --gpus-per-node 1 -- {JOB} --device cuda",
    ),
    (
        f"slurm --array 0-4 -- {JOB} --seed %a",
        "Put %a in it: --out runs/NAME-%a",
        2,
        f"slurm --array 0-4 -- {JOB}-%a --seed %a",
    ),
    (f"slurm --array 0..4 -- {JOB}", "should be numbers such as 0-4", 2, f"slurm -- {JOB}"),
    (f"slurm --time 1h -- {JOB}", "24:00:00, 90 (minutes)", 2, f"slurm --time 90 -- {JOB}"),
    (f"slurm --time 3 -- {JOB}", "is too short to stop 120 s", 2, f"slurm --time 30 -- {JOB}"),
    (f"slurm --partition a;b -- {JOB}", "one word of letters", 2, f"slurm --partition a -- {JOB}"),
    (f"slurm --sbatch x;y -- {JOB}", "such as qos=high", 2, f"slurm --sbatch qos=high -- {JOB}"),
    (
        f"slurm --conda a --venv b -- {JOB}",
        "--conda and --venv replace each other",
        2,
        f"slurm --conda a -- {JOB}",
    ),
    (f"slurm -o thesis.txt -- {JOB}", "Give another -o", 4, f"slurm -o job.sh -- {JOB}"),
    (f"slurm -o photos -- {JOB}", "photos is a folder", 4, f"slurm -o job.sh -- {JOB}"),
    ("doctor --dry-run --out thesis.txt", "is a file", 4, "doctor --dry-run --out runs"),
    ("doctor --dry-run --device gpu", "should be auto, cpu", 2, "doctor --dry-run --device cpu"),
    ("doctor --dry-run --report thesis.txt", "another file", 4, "doctor --dry-run --report b.txt"),
    ("doctor --dry-run --report no/b.txt", "no does not exist", 4, "doctor --dry-run"),
    ("doctor --quik", "Did you mean --quick?", 2, "doctor --quick --dry-run"),
]


@pytest.mark.parametrize(("words", "says", "code", "fix"), MISTAKES)
def test_a_mistake_and_its_fix(cli, tmp_path, monkeypatch, words, says, code, fix):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("thesis.txt").write_text("years of work")
    before = sorted(tmp_path.rglob("*"))
    said = cli(*words.split())
    assert said.code == code, said.err
    assert says in said.err
    assert len(said.err.strip().splitlines()) <= 4
    assert "Traceback" not in said.err
    assert sorted(tmp_path.rglob("*")) == before
    assert Path("thesis.txt").read_text() == "years of work"
    followed = cli(*fix.split())
    assert followed.code == 0, followed.err


def test_slurm_and_dry_doctor_import_no_torch(tmp_path):
    code = (
        "import sys; from openmae.cli import main\n"
        f"assert main({['slurm', '--', *JOB.split()]!r}) == 0\n"
        "assert main(['doctor', '--dry-run']) == 0\n"
        "print(sorted({'torch', 'timm', 'sklearn', 'numpy'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ended.stdout.splitlines()[-1] == "[]", ended.stderr
