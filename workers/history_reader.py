"""The history reader of a worker: reads as much of a history as a prompt needs, one long history at a time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Final

from gateway.streams import history_log
from workers.prompt import History

if TYPE_CHECKING:
    from gateway.streams.log_entries import Queued
    from gateway.streams.store.store import Store
    from workers.providers import Request

MAX_HISTORY_BYTES: Final = 32 << 20
"""Of the history that is read for one prompt. A message that is older is not answered again."""

MAX_LONG_READS: Final = 1
"""Histories at once of which more is read than the context: together they would take the memory of the worker."""


class HistoryReader:
    """Reads the prompts of all answers of one worker from the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._long_reads = asyncio.Semaphore(MAX_LONG_READS)

    async def read(
        self,
        queued: Queued,
        model: str,
        instructions: str | None,
        *,
        response: str,
        max_characters: int,
        timeout_s: float,
    ) -> tuple[Request | None, str]:
        """Return the request for a response, None if its message is not kept, and the text that a retry continues.

        The entries of the history are freed. Safe to cancel; raises StoreUnavailableError.
        """
        history = History(queued, max_characters)
        # Half of the context, so that at most twice the context is read.
        pieces = history_log.read_backwards(self._store, queued.conversation, max(1, max_characters // 2), timeout_s)
        async with aclosing(pieces), AsyncExitStack() as long_read:
            is_long = False
            async for piece in pieces:
                history.add_older([value for _, value in piece])
                if history.size > MAX_HISTORY_BYTES or history.suffices():
                    break
                if history.is_long and not is_long:
                    is_long = True
                    await long_read.enter_async_context(self._long_reads)
            return history.request(model, instructions, response=response), history.partial
