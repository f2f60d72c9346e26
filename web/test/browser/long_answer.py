"""A model for measurements: as many characters at once as the message says, and then 200 tokens a second."""

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
TOKEN = 4
SECONDS = 40


async def generate(request: Request) -> AsyncGenerator[str, None]:
    """Begin with a text of that length; then go on with it, for as long as is measured at the most."""
    length = int(request.messages[-1]["content"])
    yield (TEXT * (length // len(TEXT) + 1))[:length]
    begin = asyncio.get_running_loop().time()
    for token in count():
        late = begin + token / 200 - asyncio.get_running_loop().time()
        if late > 0:
            await asyncio.sleep(late)
        if token > 200 * SECONDS:
            return
        at = (length + token * TOKEN) % len(TEXT)
        yield (TEXT + TEXT)[at : at + TOKEN]
