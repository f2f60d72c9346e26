"""The writer of one attempt: appends its entries to the response log, and its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gateway.streams import response_log
from gateway.streams.response_log import TailMismatch
from workers import metrics

if TYPE_CHECKING:
    from gateway.streams.log_entries import End, LogId
    from gateway.streams.queued_jobs import Job
    from gateway.streams.response_log import Ended
    from gateway.streams.store.store import Store
    from workers.attempt import Attempt
    from workers.batch import Batch
    from workers.ticks import SharedTick


class FencedError(Exception):
    """The log has an end or a later attempt: this attempt must stop."""


class Writer:
    """Takes text and entries at any time, and appends them when they are due."""

    def __init__(
        self, store: Store, job: Job, attempt: Attempt, batch: Batch, tick: SharedTick, timeout_s: float
    ) -> None:
        """`timeout_s`: how long an unavailable store is retried."""
        self._store = store
        self._job = job
        self._attempt = attempt
        self._batch = batch
        self._tick = tick
        self._timeout_s = timeout_s
        self._wake = asyncio.Event()
        self._complete = False
        self._appending = False

    @property
    def attempt(self) -> int:
        """The number of the attempt."""
        return self._attempt.number

    @property
    def written(self) -> int:
        """Entries that the log contains of this attempt."""
        return self._attempt.written

    @property
    def full(self) -> bool:
        """Whether the answer has its maximum length."""
        return self._batch.full

    def add_text(self, kind: bytes, text: str) -> None:
        """Add a piece of text or reasoning; see `Batch.add`."""
        if text:
            self._batch.add(kind, text)
            self._wake.set()

    def drop_half_character(self) -> None:
        """See `Batch.drop_half_character`."""
        self._batch.drop_half_character()

    def add_entry(self, value: bytes) -> None:
        """Add an entry that is appended immediately."""
        self._attempt.add([value])
        self._wake.set()

    def complete(self) -> None:
        """Make `run` append the rest and return: nothing more is added."""
        self._complete = True
        self._wake.set()

    async def run(self) -> None:
        """Append due entries until `complete` is called and everything is written.

        Safe to cancel: entries in flight may be appended. Raises FencedError, StoreUnavailableError, StoreFullError.
        """
        while True:
            tick = self._tick.number
            if self._complete or self._batch.due(tick):
                self._attempt.add(self._batch.take(tick, last=self._complete))
            if await self._append():
                continue
            if self._complete:
                return
            if self._batch.empty:
                self._wake.clear()
                await self._wake.wait()
            else:
                await self._tick.next()

    @property
    def idle_tail(self) -> LogId | None:
        """The last id that the log should have; None while an append is in flight or due."""
        return None if self._appending or self._attempt.next() is not None else self._attempt.tail

    def restore(self, last: LogId) -> None:
        """Append again what the log lost, whose last id is `last`; nothing otherwise. `idle_tail` must not be None."""
        if last != self._attempt.tail and self._attempt.reconcile(last):
            self._wake.set()

    async def _append(self) -> bool:
        """Make the next append; return False if there is none."""
        append = self._attempt.next()
        if append is None:
            return False
        self._appending = True
        try:
            result: Any = await response_log.append(
                self._store,
                self._job.conversation,
                self._job.response,
                append.expected,
                append.first,
                append.values,
                timeout_s=self._timeout_s,
            )
        finally:
            self._appending = False
        if result == "appended":
            self._attempt.appended(append)
            metrics.APPENDS.inc()
            metrics.APPENDED.inc(len(append.values))
        else:
            self._reconcile(result)
        return True

    def _reconcile(self, last: LogId | None) -> None:
        if not self._attempt.reconcile(last):
            metrics.FENCES.labels("append").inc()
            raise FencedError

    def drop_unwritten(self) -> None:
        """Drop what the log does not contain: a full store takes an end, but no text."""
        self._attempt.drop_unwritten()

    async def end(self, how: End) -> Ended | None:
        """Append the rest and write the end; return None if the response is expired.

        Safe to cancel: the end may be written all the same. Raises FencedError, StoreUnavailableError, StoreFullError.
        """
        while True:
            while await self._append():
                pass
            result = await response_log.end(
                self._store,
                self._job.conversation,
                self._job.response,
                how,
                expected=self._attempt.tail,
                timeout_s=self._timeout_s,
            )
            if not isinstance(result, TailMismatch):
                return result
            self._reconcile(result.last)
