"""One fork server and one unbroken run for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from trials import Server, command, server


@pytest.fixture(scope="session")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("trials")) as made:
        yield made


@pytest.fixture(scope="session")
def whole(trials: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    ended = trials.run(command(out))
    assert ended.code == 0, ended.text
    return out
