"""How a process of any command ends: parts that run side by side, and the first that ends stops all."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import click

from gateway.streams.log_fields import error_fields
from gateway.streams.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable

logger = logging.getLogger(__name__)


class Parts:
    """Coroutines of one process. `stopped` is set when the first of them ends; an exception is logged and kept."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        """`group` runs the parts. A part never fails the group, so that the others can shut down in order."""
        self.stopped = asyncio.Event()
        self._group = group
        self._watches: list[asyncio.Task[None]] = []
        self._failure: Exception | None = None

    def start(self, name: str, work: Awaitable[Any]) -> None:
        """Run a part that shuts down on request, after `stopped`."""
        self._group.create_task(self._run(name, work))

    def watch(self, name: str, condition: Awaitable[Any]) -> None:
        """Run a part that has nothing to finish; `cancel_watches` ends it."""
        self._watches.append(self._group.create_task(self._run(name, condition)))

    def cancel_watches(self) -> None:
        """End the parts that were started with `watch`."""
        for watch in self._watches:
            watch.cancel()

    def raise_failure(self) -> None:
        """Raise StoreError or ClickException if a part failed. The text of any other exception may quote a user."""
        if isinstance(self._failure, StoreError | click.ClickException):
            raise self._failure
        if self._failure is not None:
            raise click.ClickException("the process failed: see the event process_part_failed in its log")

    async def _run(self, name: str, work: Awaitable[Any]) -> None:
        try:
            await work
            if not self.stopped.is_set():
                logger.info("process_stopping", extra={"part": name})
        except Exception as error:
            logger.critical("process_part_failed", extra={"part": name, **error_fields(error)})
            self._failure = self._failure or error
        except BaseException as error:
            if not self.stopped.is_set():
                # Nobody asked for it: the process would end without a word.
                logger.critical("process_part_failed", extra={"part": name, **error_fields(error)})
            raise
        finally:
            self.stopped.set()
