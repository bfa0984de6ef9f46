"""Every fault has its tests, every test in the table exists, and the page says the same."""

from __future__ import annotations

import faulttable as table
import pytest


def test_every_fault_has_a_row() -> None:
    assert [row.number for row in table.ROWS] == list(range(1, 41))
    assert all(row.fault and row.expected and row.tests for row in table.ROWS)


@pytest.mark.parametrize("row", table.ROWS, ids=lambda row: f"F{row.number}")
def test_its_tests_exist(row: table.Row) -> None:
    for name in row.tests:
        file, _, function = name.partition("::")
        known = table.functions(file)
        assert known if function == "*" else function in known, name


def test_every_fault_has_a_fast_test() -> None:
    late = table.slow()
    only_slow = [row.number for row in table.ROWS if set(row.tests) <= late]
    assert only_slow == [40]


def test_the_page_is_that_of_the_table() -> None:
    assert table.PAGE.read_text(encoding="utf-8") == table.page(), (
        "python tests/faults/faulttable.py"
    )
