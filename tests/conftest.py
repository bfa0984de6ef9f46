"""What holds for every test: caches go to a folder of their own and never to the user's, and no
process, shared memory or temporary file is left.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from leftovers import Leftovers
from trials import Server, command, server

LINES = pytest.StashKey[list[str]]()  # a line for each thing that is left
LEFT = pytest.StashKey[Leftovers]()  # where tests run: with -n 2 in two processes, not in the first


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    config.stash[LINES] = []
    if getattr(config.option, "dist", "no") == "no" or hasattr(config, "workerinput"):
        config.stash[LEFT] = Leftovers()
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # begun in the background
            signal.signal(signal.SIGINT, signal.default_int_handler)  # tests press Ctrl-C


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if LEFT in config.stash:
        config.stash[LINES] += config.stash[LEFT].found()
        config.stash[LEFT].close()
    if hasattr(config, "workeroutput"):  # for the first process
        config.workeroutput["left"] = config.stash[LINES]
    if config.stash[LINES]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    lines = getattr(node, "workeroutput", {}).get("left", [])
    node.config.stash[LINES] += lines
    if lines:
        node.config.pluginmanager.get_plugin("session").testsfailed += 1


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if lines := config.stash[LINES]:
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
