"""Settings of channel groups (docs/variants.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from openmae.config.base import Settings, setting
from openmae.config.training import DATA


class GroupOptions(Settings):
    """Bands that belong together share a token; off by default."""

    channel_groups: tuple[str, ...] = setting(
        (), "of many bands: 1,2,3 4,5 6-10, counted from 1 (SatMAE)", DATA, "fixed"
    )
    group_masks: Literal["independent", "same"] = setting(
        "independent", "of channel groups: each its own mask, or one", DATA, "allow"
    )

    @property
    def groups(self) -> list[list[int]]:
        """Channels of each group, counted from 0.

        Raises:
            ValueError: a word that is none.
        """
        return [parse_group(word) for word in self.channel_groups]

    def problems(self) -> Iterator[tuple[str, str]]:
        channels = getattr(self, "channels", 3)
        try:
            found = [channel for own in self.groups for channel in own]
        except ValueError as error:
            yield "channel_groups", f": {error}"
            found = []
        every = set(range(channels))
        if found and (missing := sorted(every - set(found))):
            yield "channel_groups", f": channel {missing[0] + 1} of {channels} is in no group"
        elif found and max(found) >= channels:
            yield "channel_groups", f": there is no channel {max(found) + 1}, --channels {channels}"
        elif len(found) > len(set(found)):
            twice = next(c for c in found if found.count(c) > 1)
            yield "channel_groups", f": channel {twice + 1} is in two groups"
        yield from super().problems()


def parse_group(text: str) -> list[int]:
    """ "1,2,5-7" -> the channels counted from 0.

    Raises:
        ValueError: no such list.
    """
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise ValueError(f"{text} should be numbers from 1, such as 1,2,3 or 6-10")
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        start, end = int(first), int(last or first)
        if not 1 <= start <= end <= 10_000:
            raise ValueError(f"{part} in {text} should count up from 1")
        found += range(start - 1, end)
    return found
