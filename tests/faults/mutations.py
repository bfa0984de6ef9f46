"""Takes safeguards out of a copy of the source, one at a time, and runs a test that must then fail.

python tests/faults/mutations.py [--only WORD]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 240  # seconds of one test


@dataclass(frozen=True)
class Mutation:
    """`old` in a file of the package becomes `new`; then one of `tests` must fail."""

    about: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


POWER = "tests/faults/test_power_loss.py::test_at_every_file_call"
CUT = "tests/engine/test_checkpoint_interrupted.py::test_at_every_file_call"
AFTER = "tests/resume/test_kills.py::test_killed_after_a_step"
RANKS = "tests/distributed/test_ranks_faults.py"
BACK = "tests/faults/test_rollback.py"
AHEAD = "tests/faults/test_background_save.py"
DISK = "tests/faults/test_disk_faults.py"

_MANIFEST = 'MANIFEST, {"format": FORMAT, "step": step, "files": listed})\n'

MUTATIONS = (
    Mutation("a file is not fsynced", "engine/tensorfile.py",
             "        file.flush()\n        os.fsync(file.fileno())\n", "        file.flush()\n",
             (POWER,)),
    Mutation("the rename is not fsynced", "engine/checkpoint.py",
             "        os.replace(temporary, final)\n        sync_folder(folder)\n",
             "        os.replace(temporary, final)\n", (POWER,)),
    Mutation("the names in a checkpoint are not fsynced", "engine/checkpoint.py",
             "        sync_folder(temporary)\n", "", (POWER,)),
    Mutation("the folder of checkpoints is not fsynced", "engine/checkpoint.py",
             "        sync_folder(folder.parent)\n", "", (POWER,)),
    Mutation("written in place", "engine/checkpoint.py",
             '    temporary = folder / f"{_TEMPORARY}{step:08d}-{uuid.uuid4().hex}"\n',
             "    temporary = final\n", (CUT,)),
    Mutation("a small file is written in place", "engine/textfile.py",
             'temporary = path.with_name(f".tmp-{path.name}")', "temporary = path",
             ("tests/engine/test_tensorfile.py::"
              "test_a_small_file_is_replaced_whole_or_not_at_all",)),
    Mutation("the manifest is written after the rename", "engine/checkpoint.py",
             f"        write_json(temporary / {_MANIFEST}        sync_folder(temporary)\n"
             "        os.replace(temporary, final)\n",
             f"        os.replace(temporary, final)\n        write_json(final / {_MANIFEST}"
             "        sync_folder(final)\n",
             (CUT,)),
    Mutation("checksums are not looked at", "engine/manifest.py",
             'if hashes and file_sha256(file) != listed["sha256"]:', "if False:",
             ("tests/engine/test_checkpoint_damage.py::test_flipped_bits",)),
    Mutation("the newest by time", "engine/manifest.py", "sorted(found, reverse=True)",
             "sorted(found, key=lambda f: f[1].stat().st_mtime, reverse=True)",
             ("tests/faults/test_clock_and_output.py::test_times_of_files_mean_nothing",)),
    Mutation("old ones go before the newest verifies", "engine/checkpoint.py",
             "elif not kept:\n            return", "elif not kept:\n            kept = 1",
             ("tests/engine/test_checkpoint.py::"
              "test_the_last_n_are_kept_once_the_newest_verifies",)),
    Mutation("damaged ones count as kept", "engine/checkpoint.py",
             "elif problem(path, hashes=path not in verified) is None:", "elif True:",
             (f"{DISK}::test_a_damaged_one_does_not_count",)),
    Mutation("the counter of the average is not saved", "engine/ema.py",
             'return {**self._average, "count": self._count}', "return dict(self._average)",
             (AFTER,)),
    Mutation("noise comes from a global generator", "randomness.py",
             "noise = uniforms(self.seed, purpose, self.first, width, self.rows)",
             "noise = np.random.random((self.rows, width))", (AFTER,)),
    Mutation("metrics after the checkpoint are kept", "engine/runfolder.py",
             'if row.get("step", 0) <= step]', "if row]", (AFTER,)),
    Mutation("a step that is not finite is done", "engine/loop.py",
             "    optimizer.found_inf = skipped  # type: ignore[attr-defined]\n", "",
             ("tests/engine/test_loop.py::test_a_step_that_is_not_finite_changes_nothing",)),
    Mutation("each rank looks at its own loss", "engine/loop.py",
             "    loss = plan.world.mean(loss)\n", "",
             ("tests/distributed/test_ranks_exact.py::"
              "test_a_run_of_several_ranks_is_the_run_of_one",)),
    Mutation("no vote on a stop", "engine/agree.py",
             "code = world.vote(trouble.exit_code if trouble is not None else own)",
             "code = trouble.exit_code if trouble is not None else own",
             (f"{RANKS}::test_a_stop_signal_to_one_rank_stops_all_at_one_step",)),
    Mutation("one store for all attempts", "engine/distributed.py",
             'f"room_{_room(store, rank, size)}"', '"room"',
             ("tests/faults/test_store_prefix.py::"
              "test_ranks_that_come_again_see_their_own_keys_only",)),
    Mutation("ranks with other data begin", "tasks/ranks.py",
             '"data": job.resolved["data_hash"], ', "",
             (f"{RANKS}::test_ranks_with_other_data_are_refused",)),
    Mutation("an I/O error is not tried again", "engine/saving.py", "_RETRIES = 2", "_RETRIES = 0",
             (f"{DISK}::test_an_io_error_is_tried_again",)),
    Mutation("failed saves add up over good ones", "engine/saving.py",
             "            self.failures = 0\n            return\n", "            return\n",
             ("tests/engine/test_loop.py::test_three_failed_saves_in_a_row_end_the_run",)),
    Mutation("the background writes the live tensors", "engine/background.py",
             "return kept.copy_(tensor, non_blocking=tensor.is_cuda)", "return tensor",
             (f"{AHEAD}::test_the_files_are_the_same",)),
    Mutation("errors of the background are not asked for", "engine/saving.py",
             "if (ended := self._writer.ended()) is not None:", "if ended := None:",
             (f"{AHEAD}::test_an_error_is_known_within_a_step",)),
    Mutation("images to blame stay", "tasks/running.py",
             "        excluded=rollback.excluded(job.resolved),\n", "",
             (f"{BACK}::test_back_once_without_the_bad_ones",)),
    Mutation("newer checkpoints stay when the run goes back", "tasks/rollback.py",
             "        _forget_after(folder, at)\n", "",
             (f"{BACK}::test_killed_and_continued_it_is_the_same",)),
    Mutation("skipped steps are forgotten at a stop", "tasks/running.py",
             "        state.skipped = rollback.skipped_before(found, resolved)\n", "",
             (f"{BACK}::test_killed_and_continued_it_is_the_same",)),
    Mutation("the folder is not locked", "engine/runfolder.py",
             "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass",
             ("tests/engine/test_runfolder.py::test_the_lock_of_another_process",)),
    Mutation("a lost loader process raises anywhere", "data/stream.py",
             "    with _no_raise_from_a_signal():\n            stream = iter(made)\n",
             "    if True:\n            stream = iter(made)\n",
             ("tests/faults/test_loader_faults.py::"
              "test_a_loss_is_not_raised_in_the_middle_of_a_step",)),
)  # fmt: skip


def copied(base: Path) -> Path:
    """A copy of what the tests need."""
    tree = base / "tree"
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("src", "tests", "docs"):
        shutil.copytree(ROOT / name, tree / name, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def fails(tree: Path, tests: tuple[str, ...]) -> str:
    """How a test fails on a tree; empty when it passes."""
    path = os.pathsep.join([str(tree / "src"), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    words += [f"--timeout={LIMIT}", *tests]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return next((line for line in done.stdout.splitlines() if line.startswith("E  ")), "?") * (
        done.returncode == 1
    )


def main() -> int:
    """Every mutation; 1 when one was not noticed."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--only", default="", help="a word in what is taken out")
    only, unnoticed = words.parse_args().only, []
    chosen = [m for m in MUTATIONS if only in m.about]
    for mutation in chosen:  # all at once, before any of them takes its time
        text = (ROOT / "src" / "openmae" / mutation.file).read_text(encoding="utf-8")
        assert mutation.old in text, f"{mutation.about}: not found in {mutation.file}"
    with tempfile.TemporaryDirectory(prefix="openmae-mutations-") as base:
        tree = copied(Path(base))
        for mutation in chosen:
            file = tree / "src" / "openmae" / mutation.file
            before = file.read_text(encoding="utf-8")
            file.write_text(before.replace(mutation.old, mutation.new), encoding="utf-8")
            red = fails(tree, mutation.tests)
            file.write_text(before, encoding="utf-8")
            print(f"{'red' if red else 'UNNOTICED'}: {mutation.about}  {red[:90]}", flush=True)
            unnoticed += [] if red else [mutation.about]
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} turn a test red")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
