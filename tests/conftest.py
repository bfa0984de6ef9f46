"""What holds for every test: caches go to a folder of their own and never to the user's."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def _cache_of_the_tests(tmp_path_factory):
    before = os.environ.get("OPENMAE_CACHE")
    os.environ["OPENMAE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["OPENMAE_CACHE"]
    else:
        os.environ["OPENMAE_CACHE"] = before
