"""What holds for every test: caches go to a folder of their own and never to the user's, and no
process, shared memory or temporary file is left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from leftovers import Leftovers
from trials import Server, command, server

LEFT = pytest.StashKey[tuple[Leftovers, list[str]]]()


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[LEFT] = (Leftovers(), [])


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    left, lines = session.config.stash[LEFT]
    lines += left.found()
    left.close()
    if lines:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    _, lines = config.stash[LEFT]
    if lines:
        terminalreporter.section("left behind by the tests", red=True)
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture(autouse=True, scope="session")
def _cache_of_the_tests(tmp_path_factory):
    before = os.environ.get("OPENMAE_CACHE")
    os.environ["OPENMAE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["OPENMAE_CACHE"]
    else:
        os.environ["OPENMAE_CACHE"] = before


@pytest.fixture(scope="session")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One fork server for all tests that run the small run of `trials`."""
    with server(tmp_path_factory.mktemp("trials")) as made:
        yield made


@pytest.fixture(scope="session")
def whole(trials: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    ended = trials.run(command(out))
    assert ended.code == 0, ended.text
    return out
