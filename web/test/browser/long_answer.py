"""A generator for measurements: a long first text, then 200 tokens a second."""

from __future__ import annotations

import asyncio
import json
import os
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from workers.providers import Request

TEXT = json.loads(os.environ.get("LONG_ANSWER", '"word "'))
TOKEN_CHARS = 4
MAX_S = 40


async def generate(request: Request) -> AsyncGenerator[str, None]:
    """Yield a text of the length in the message, then tokens until the longest measurement ends. Safe to cancel."""
    length = int(request.messages[-1]["content"])
    yield (TEXT * (length // len(TEXT) + 1))[:length]
    begin = asyncio.get_running_loop().time()
    for token in count():
        delay = begin + token / 200 - asyncio.get_running_loop().time()
        if delay > 0:
            await asyncio.sleep(delay)
        if token > 200 * MAX_S:
            return
        at = (length + token * TOKEN_CHARS) % len(TEXT)
        yield (TEXT + TEXT)[at : at + TOKEN_CHARS]
