"""The faults that a run survives: what happens, what is expected, and the tests of it. The page
docs/faults.md is made of this table: `python tests/faults/faulttable.py` writes it.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "faults.md"


@dataclass(frozen=True)
class Row:
    """A fault; tests are `file::function` below tests/."""

    number: int
    fault: str
    expected: str
    tests: tuple[str, ...]

    @property
    def slow(self) -> list[str]:
        """Those of its tests that only `make test-slow` runs."""
        return [name for name in self.tests if name in slow()]


def _row(number: int, fault: str, expected: str, *tests: str) -> Row:
    return Row(number, fault, expected, tests)


KILLS, STOPS = "resume/test_kills.py", "resume/test_stops.py"
DAMAGE, CHANGES = "resume/test_damage.py", "resume/test_changes.py"
BROKEN, CUT = "engine/test_checkpoint_damage.py", "engine/test_checkpoint_interrupted.py"
DISK, AHEAD = "faults/test_disk_faults.py", "faults/test_background_save.py"
LOADER, ODD = "faults/test_loader_faults.py", "faults/test_clock_and_output.py"
PLACE, TIMES = "faults/test_environment.py", "faults/test_stop_times.py"
BACK, STRANGE = "faults/test_rollback.py", "faults/test_anomalies.py"
RANKS, EXACT = "distributed/test_ranks_faults.py", "distributed/test_ranks_exact.py"
LAUNCH, AGAIN = "distributed/test_launch.py", "distributed/test_launch_restarts.py"
REAL, FOLDER = "distributed/test_launch_real.py", "engine/test_runfolder.py"

ROWS = (
    _row(1, "killed at random moments", "weights, moments, averages and metrics equal those of an"
         " unbroken run to the bit; one save interval is lost at most",
         f"{KILLS}::test_killed_at_random_moments", f"{KILLS}::test_killed_a_hundred_times",
         f"{KILLS}::test_killed_after_a_step"),
    _row(2, "killed inside a save", "no checkpoint is lost or damaged; the rest goes at the next"
         " start", f"{KILLS}::test_killed_inside_a_save",
         f"{KILLS}::test_killed_a_hundred_times_inside_a_save"),
    _row(3, "the end between any two file calls of a save", "the newest complete checkpoint loads",
         f"{CUT}::test_at_every_file_call"),
    _row(4, "power loss: what was not fsynced is gone", "the same; a save that returned is on the"
         " disk", "faults/test_power_loss.py::test_at_every_file_call",
         "faults/test_power_loss.py::test_what_is_not_fsynced_is_lost",
         f"{CUT}::test_the_order_of_durability"),
    _row(5, "disk full", "path, bytes needed and free, the system's own words; training goes on,"
         " exit 4 after three in a row (`--on-save-error stop`: after one); the rest is intact",
         f"{DISK}::test_two_saves_fail_and_training_goes_on",
         f"{DISK}::test_full_after_so_many_bytes",
         f"{DISK}::test_a_limit_of_the_system_on_file_sizes",
         f"{DISK}::test_a_disk_that_is_really_full", f"{DISK}::test_stop_at_the_first",
         "engine/test_loop.py::test_three_failed_saves_in_a_row_end_the_run"),
    _row(6, "quota, I/O error, stale handle, read-only", "the same; an I/O error is tried again"
         " twice", f"{DISK}::test_two_saves_fail_and_training_goes_on",
         f"{DISK}::test_an_io_error_is_tried_again",
         "engine/test_tensorfile.py::test_an_error_of_fsync_is_not_swallowed"),
    _row(7, "newest checkpoint truncated or empty", "one line names the file, the one before is"
         " used", f"{BROKEN}::test_truncated", f"{DAMAGE}::test_a_damaged_newest_one"),
    _row(8, "a flipped bit", "always found", f"{BROKEN}::test_flipped_bits"),
    _row(9, "files deleted, added, swapped", "found", f"{BROKEN}::test_deleted",
         f"{BROKEN}::test_something_more", f"{BROKEN}::test_swapped_files"),
    _row(10, "a pointer to the newest that is wrong", "there is none to be wrong: folders are"
         " listed, manifests trusted, nothing outside is read",
         f"{TIMES}::test_a_pointer_of_others_means_nothing",
         f"{TIMES}::test_a_link_out_of_the_run_is_not_followed",
         f"{BROKEN}::test_a_manifest_that_points_outside"),
    _row(11, "the save after N kept ones fails", "N can still be loaded; a damaged one does not"
         " count as kept", f"{DISK}::test_the_last_n_stay_while_saves_fail",
         f"{DISK}::test_a_damaged_one_does_not_count"),
    _row(12, "a save in the background is killed, slow, or fails", "the same bytes as a save that"
         " is waited for, one at a time, an error known within a step, nothing incomplete",
         f"{AHEAD}::test_the_files_are_the_same", f"{AHEAD}::test_killed_between_copy_and_commit",
         f"{AHEAD}::test_training_goes_on_while_a_save_is_slow",
         f"{AHEAD}::test_one_is_pending_at_most",
         f"{AHEAD}::test_an_error_is_known_within_a_step",
         f"{AHEAD}::test_three_errors_end_the_run"),
    _row(13, "SIGTERM at any time of a run", "saved, or nothing to save yet; exit 75; goes on to"
         " the same bits", f"{STOPS}::test_stops_saves_and_continues",
         f"{TIMES}::test_stopped_at_random_moments", f"{TIMES}::test_stopped_thirty_times",
         f"{TIMES}::test_a_real_command_while_it_begins"),
    _row(14, "SIGTERM to the group, with loader processes", "as above, without complaints of them",
         f"{STOPS}::test_a_signal_to_the_group_of_two_workers",
         f"{STOPS}::test_a_real_command_stopped_by_its_group"),
    _row(15, "a stop signal to one rank, the launcher or torchrun; the launcher killed", "all stop"
         " at one step, status.json says 75; nothing lives on",
         f"{RANKS}::test_a_stop_signal_to_one_rank_stops_all_at_one_step",
         f"{LAUNCH}::test_a_signal_to_the_launcher_reaches_every_rank",
         f"{LAUNCH}::test_a_killed_launcher_leaves_no_process",
         f"{REAL}::test_a_stop_of_the_launcher_and_its_ranks", f"{REAL}::test_torchrun_stops",
         f"{REAL}::test_nothing_outlives_a_killed_launcher"),
    _row(16, "a save slower than the batch system waits", "the checkpoint before is intact and the"
         " run goes on from it", f"{AHEAD}::test_killed_while_the_last_ones_are_slow"),
    _row(17, "Ctrl-C once, twice", "exit 75 with a save; 130 at once with a valid disk",
         f"{STOPS}::test_stops_saves_and_continues",
         "engine/test_signals.py::test_a_second_ctrl_c_exits_at_once",
         f"{LAUNCH}::test_a_second_ctrl_c_ends_everything_at_once"),
    _row(18, "a rank is killed", "the others end at once, all are started again from the newest"
         " checkpoint, and end with the bits of an unbroken run",
         f"{RANKS}::test_a_rank_that_is_killed_ends_the_other_at_once",
         f"{AGAIN}::test_a_killed_rank_starts_all_again",
         "faults/test_store_prefix.py::test_ranks_that_come_again_see_their_own_keys_only",
         "distributed/test_ranks_killed.py::test_killed_ranks_go_on_to_the_same_weights",
         "distributed/test_ranks_killed.py::test_one_hundred_random_kills",
         f"{REAL}::test_torchrun_restarts_a_killed_rank"),
    _row(19, "a rank hangs", "it is named with the place where it is, and all end",
         f"{RANKS}::test_a_rank_that_hangs_is_named",
         f"{AGAIN}::test_a_crash_and_a_hang_start_all_again"),
    _row(20, "one rank has an error", "that error, once and first",
         f"{LAUNCH}::test_the_cause_is_told_once_and_first",
         f"{REAL}::test_torchrun_shows_one_rank_and_the_errors_of_all"),
    _row(21, "ranks with other data, settings or code", "refused at the start, naming what differs",
         f"{RANKS}::test_ranks_with_other_settings_are_refused",
         f"{RANKS}::test_ranks_with_other_data_are_refused"),
    _row(22, "1, 2, 4, 1 ranks in turn; a number that does not divide the batch", "the same"
         " samples, losses within 1e-5; refused with the numbers that work",
         f"{EXACT}::test_one_two_four_one", f"{EXACT}::test_ddp_continues_as_fsdp_and_back",
         f"{RANKS}::test_a_batch_that_does_not_divide_names_what_works",
         "data/test_loader.py::test_ranks_share_the_global_batch"),
    _row(23, "any number of loader processes", "the same samples, crops and masks",
         "data/test_loader.py::test_workers_change_nothing",
         f"{STOPS}::test_a_signal_to_the_group_of_two_workers"),
    _row(24, "a loader process is killed, out of memory, or has an error", "made good once at the"
         " same place, then exit 5, or 3 for the data",
         f"{LOADER}::test_one_loss_is_made_good",
         f"{LOADER}::test_the_second_loss_at_a_place_ends_it",
         f"{LOADER}::test_a_run_goes_on_to_the_bit",
         f"{LOADER}::test_an_error_of_the_data_is_none_of_memory",
         f"{LOADER}::test_a_loss_is_not_raised_in_the_middle_of_a_step"),
    _row(25, "shared memory is full", "its size, what is free, and two fixes",
         f"{LOADER}::test_shared_memory_is_full",
         f"{LOADER}::test_the_second_loss_at_a_place_ends_it"),
    _row(26, "damaged, odd and hostile image files", "one documented outcome each, no crash, the"
         " data unchanged", "data/test_odd_files.py::test_odd_files",
         "data/test_odd_files.py::test_generated_files_through_a_folder",
         "data/test_odd_files.py::test_a_pipe_does_not_hang",
         "data/test_odd_files.py::test_large_pictures_take_less_than_a_gigabyte",
         "data/test_decode.py::test_bomb", "data/test_decoder_fuzz.py::*"),
    _row(27, "files deleted, added, replaced", "a run that reads goes on; one that is continued is"
         " refused, or `--allow-change data`", f"{TIMES}::test_files_change_under_a_run",
         f"{CHANGES}::test_changed_data_refuse_unless_allowed",
         f"{CHANGES}::test_the_data_are_gone"),
    _row(28, "the drive stalls, the disk is slow", "`waiting for data 30 s: FILE`, again every"
         " minute; the same for a save from 60 s on", f"{LOADER}::test_a_stalled_file_is_named",
         f"{LOADER}::test_when_it_is_said", f"{LOADER}::test_a_slow_disk_is_named"),
    _row(29, "not a number, or infinity, in images, gradients or weights", "the step is skipped on"
         " all ranks alike and the file named; after `--max-skips` in a row, or 10 of 1,000 steps,"
         " the run goes back once without the images to blame at half the learning rate, to the"
         " bit when killed meanwhile; the second time exit 6",
         f"{STRANGE}::test_weights_stay_finite_whatever_comes",
         f"{STRANGE}::test_one_percent_of_a_window",
         f"{BACK}::test_back_once_without_the_bad_ones",
         f"{BACK}::test_killed_and_continued_it_is_the_same",
         f"{BACK}::test_the_second_time_ends_the_run",
         f"{RANKS}::test_what_is_not_finite_on_one_rank_is_skipped_on_both",
         f"{RANKS}::test_ranks_go_back_together"),
    _row(30, "a spike of the loss; constant images", "reported, and nothing else; the loss is"
         " finite", f"{STRANGE}::test_a_spike_is_only_reported",
         f"{STRANGE}::test_a_spike_changes_nothing_that_follows",
         "targets/test_pixels.py::test_constant_patches_stay_finite"),
    _row(31, "the clock jumps or stands still", "order by step, durations by the steady clock",
         f"{ODD}::test_a_clock_that_jumps_or_stands_still",
         f"{ODD}::test_a_steady_clock_that_stands_still",
         f"{ODD}::test_times_of_files_mean_nothing",
         "engine/test_signals.py::test_a_clock_that_jumps_stops_nothing"),
    _row(32, "a folder for results that cannot be used", "refused before training, exit 4, nothing"
         " left", f"{FOLDER}::test_a_foreign_folder_is_refused", f"{FOLDER}::test_a_file_as_out",
         f"{FOLDER}::test_space_is_looked_at_before",
         "cli/test_mistakes.py::test_row_20_a_nearly_full_disk_is_refused_before_the_start"),
    _row(33, "two runs in one folder", "refused, naming process and machine; a dead one's lock is"
         " none", f"{FOLDER}::test_the_lock_of_another_process",
         "cli/test_mistakes_run.py::test_row_19_in_use_by_another_process",
         f"{RANKS}::test_a_second_run_in_the_folder_is_refused_on_every_rank"),
    _row(34, "a start that failed, then the right one", "works in the same folder",
         f"{FOLDER}::test_a_failed_start_leaves_nothing",
         "cli/test_mistakes.py::test_a_mistake_is_named_leaves_nothing_and_its_fix_works"),
    _row(35, "continued with any setting changed", "free, by `--allow-change`, or never; each"
         " setting has its class", f"{CHANGES}::test_a_changed_setting",
         f"{CHANGES}::test_every_setting_is_in_the_table"),
    _row(36, "checkpoints of every release", "load, embed, go on",
         f"{PLACE}::test_a_run_of_a_release_loads_embeds_and_goes_on",
         f"{PLACE}::test_there_is_a_run_of_every_release"),
    _row(37, "out of memory", "exit 5 with a computed batch; with `--micro-batch auto` smaller"
         " parts of the same batch", "faults/test_memory_faults.py::test_out_of_memory_at_a_step",
         "tasks/test_fitting.py::test_out_of_memory_on_the_way",
         f"{RANKS}::test_memory_that_ends_on_one_rank_lowers_the_micro_batch"),
    _row(38, "torn lines, a full disk in the log, a closed pipe, odd terminals", "training"
         " survives, readers pass over, no control characters in files",
         f"{ODD}::test_a_full_disk_costs_lines_of_the_log",
         f"{ODD}::test_torn_lines_are_passed_over",
         f"{ODD}::test_a_pipe_whose_reader_ends", f"{ODD}::test_a_narrow_terminal",
         f"{ODD}::test_a_dumb_terminal_has_plain_lines",
         f"{ODD}::test_no_control_characters_in_a_file",
         f"{FOLDER}::test_a_full_disk_costs_a_line_not_the_run"),
    _row(39, "no home, no UTF-8, `python -OO`, no network, nothing writable but the run", "works;"
         " no socket beyond this machine", f"{PLACE}::test_a_place_with_nothing",
         f"{PLACE}::test_the_hook_would_see_a_socket"),
    _row(40, "many of these at random, for hours", "the same end; memory, open files and shared"
         " memory flat", "faults/test_soak.py::test_a_soak"),
)  # fmt: skip


def functions(path: str) -> dict[str, bool]:
    """Test functions of a file below tests/, and whether each is slow."""
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return {
        node.name: any("mark.slow" in ast.unparse(d) for d in node.decorator_list)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def slow() -> set[str]:
    """All tests of the table that are slow."""
    files = {name.partition("::")[0] for row in ROWS for name in row.tests}
    return {f"{file}::{n}" for file in files for n, long in functions(file).items() if long}


def page() -> str:
    """docs/faults.md."""
    late = slow()
    lines = [
        "# Faults",
        "",
        "What may happen to a run, what is then expected, and the tests of it (below `tests/`;"
        " *slow* ones are run by `make test-slow`). Written by"
        " `python tests/faults/faulttable.py`.",
        "",
        "Settings: `--save-in-background` (on by default on a GPU) copies the tensors to the CPU"
        " and writes while training goes on, one save at a time. `--on-save-error stop` ends the"
        " run at the first save that fails. `--max-skips` steps in a row without a finite loss, or"
        " 10 of the last 1,000, send the run back once; what was decided stands in `config.yaml`"
        " (`resolved: rolled_back: {step, from, excluded, lr_factor}`); a new `--lr` with"
        " `--allow-change lr` is not halved.",
        "",
        "| | fault | expected | tests |",
        "|---|---|---|---|",
    ]
    for row in ROWS:
        names = [f"`{name}`{' *slow*' if name in late else ''}" for name in row.tests]
        lines.append(f"| F{row.number} | {row.fault} | {row.expected} | {'<br>'.join(names)} |")
    lines += [
        "",
        "`python tests/faults/mutations.py` takes a safeguard out of a copy of the source, one at a"
        " time, and runs the test that must then fail.",
        "`python tests/faults/soak.py --minutes 120` is the long form of F40.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.exit(0)
