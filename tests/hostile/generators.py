"""Generators of the deployment: one whose text tells when each piece was made, and others that misbehave."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from workers.providers import Finish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def timed(_: Any) -> AsyncIterator[str]:
    """Yield the monotonic time, which all processes of a machine share, ten times a second for ten seconds."""
    for _number in range(100):
        yield f"{time.monotonic():.4f} "
        await asyncio.sleep(0.1)


async def bad_usage(_: Any) -> AsyncIterator[Any]:
    """Finish with counts of wrong types."""
    yield "text "
    yield Finish("complete", usage={"cost_usd": 0.00012})  # type: ignore[dict-item]


async def controls(_: Any) -> AsyncIterator[str]:
    """Yield control characters and a lone surrogate."""
    yield "\x9b31m\u202e\ud800\x00"


async def large(_: Any) -> AsyncIterator[str]:
    """Yield one long text in one piece."""
    yield "x" * 300_000
