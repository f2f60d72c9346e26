"""One call to a provider, as an operator sees it: how long until its first piece, how long in all, how many tokens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from workers import metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

CHAT: Final = "chat"
"""The name of the operation, of those that OpenTelemetry's conventions know."""


class Call:
    """From the moment at which it is made."""

    def __init__(self, provider: str, model: str) -> None:
        """`provider` and `model` as they are named in metrics."""
        self._labels = (CHAT, provider, model)
        self._begun = time.perf_counter()

    def heard(self) -> None:
        """The first piece has come."""
        metrics.FIRST_CHUNK.labels(*self._labels).observe(time.perf_counter() - self._begun)

    def used(self, usage: Mapping[str, int]) -> None:
        """What the provider counted, as in `workers.providers.Finish`."""
        for kind in ("input", "output"):
            if (count := usage.get(f"{kind}_tokens")) is not None:
                metrics.TOKENS.labels(*self._labels, kind).observe(count)

    def over(self, error: str = "") -> None:
        """The call is over; `error` is the code of what it failed with."""
        metrics.DURATION.labels(*self._labels, error).observe(time.perf_counter() - self._begun)
