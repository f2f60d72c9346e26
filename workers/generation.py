"""The generation of one response: claim, provider call, appends, end."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from opentelemetry.trace import SpanKind

from gateway.streams import history_log, log_entries, response_log, tracing
from gateway.streams.log_entries import End, LogText, Problem, Queued, Start
from gateway.streams.log_fields import error_fields
from gateway.streams.records import Working
from gateway.streams.response_log import Claimed, Ended
from gateway.streams.store.errors import StoreError, StoreFullError
from workers import metrics
from workers.attempt import Attempt
from workers.batch import Batch
from workers.provider_loop import ProviderLoop
from workers.writer import FencedError, Writer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.streams.log_entries import LogId
    from gateway.streams.queued_jobs import Job
    from gateway.streams.store.store import Store
    from workers.breakers import Breakers
    from workers.history_reader import HistoryReader
    from workers.options import GenerationOptions
    from workers.providers import Request, Served
    from workers.ticks import SharedTick

logger = logging.getLogger(__name__)

TOO_LONG: Final = End("failed", error=Problem("answer_timeout", "The answer took too long."), retryable=True)


class _Prepared(NamedTuple):
    """What an attempt needs once it is claimed. The log and the history that it was made from are freed."""

    writer: Writer
    targets: Sequence[Served]
    request: Request
    partial: str
    trace: str | None


class Generation:
    """One worker's attempt at one response."""

    def __init__(
        self,
        store: Store,
        job: Job,
        consumer: str,
        targets: Mapping[str, Sequence[Served]],
        breakers: Breakers,
        options: GenerationOptions,
        tick: SharedTick,
        histories: HistoryReader,
    ) -> None:
        """`targets`: by model alias, those to call in order."""
        self._store = store
        self._job = job
        self._consumer = consumer
        self._targets = targets
        self._breakers = breakers
        self._options = options
        self._tick = tick
        self._histories = histories
        self._batch = Batch(options.max_answer_bytes)
        self._writer: Writer | None = None
        """None until the attempt is claimed."""
        self._reading: ProviderLoop | None = None
        self.model = ""
        """The alias; empty until the request is read."""
        self._started_at = time.monotonic()
        self._reported_size = 0
        self.instructions_id: str | None = None
        """The stored instructions that the response needs."""
        self._how: End | None = None
        self.ending = False
        """Whether the end is being written. An end that is published then is most likely this one."""

    def working(self, elapsed_s: float) -> Working:
        """Return the progress for the worker's record. `elapsed_s`: seconds since the last call."""
        size, before = self._batch.size, self._reported_size
        self._reported_size = size
        return Working(
            response=self._job.response,
            conversation=self._job.conversation,
            model=self.model,
            attempt=self._writer.attempt if self._writer is not None else 0,
            age=round(time.monotonic() - self._started_at, 1),
            entries=self._writer.written if self._writer is not None else 0,
            size=size,
            rate=round((size - before) / elapsed_s, 1),
        )

    async def run(self) -> None:
        """Generate the response; return when its log has an end or another worker owns it.

        Safe to cancel: the log stays without an end, and another worker takes over after the lease.
        """
        try:
            await self._run()
        except FencedError:
            logger.info("attempt_fenced", extra=self._log_fields)
        except asyncio.CancelledError:
            logger.info("attempt_cancelled", extra=self._log_fields)
            raise
        except StoreFullError as error:
            if self._writer is None:
                # Nothing was generated: the job waits until the store has memory for its attempt.
                logger.warning("attempt_abandoned", extra={**self._log_fields, "error": type(error).__name__})
                return
            # Another attempt would call the provider again, and its text could not be written either.
            logger.warning("attempt_store_full", extra=self._log_fields)
            self._writer.drop_unwritten()
            await self._fail("store_full", "The service is full: the answer ends here.", retryable=True)
        except StoreError as error:
            # Not a failure of the response: the next worker continues with all that was written.
            logger.warning("attempt_abandoned", extra={**self._log_fields, "error": type(error).__name__})
        except Exception as error:
            logger.error("attempt_failed", extra={**self._log_fields, **error_fields(error)})
            await self._fail("internal", "The answer could not be written.", retryable=True)

    async def _run(self) -> None:
        prepared = await self._prepare()
        if prepared is not None:
            await self._answer(prepared)

    async def _prepare(self) -> _Prepared | None:
        """Claim the attempt and build its request; None if the response has an end or another owner."""
        job, store, options = self._job, self._store, self._options
        queued, before = await self._read_log()
        if queued is None:
            await self._fail_expired()
            return None
        self.model = queued.model
        self._options = options = self._options.of(queued.model)
        targets = self._targets.get(queued.model)
        if not targets:
            await self._fail("unknown_model", "There is no such model.", retryable=False)
            return None
        # Without text there is nothing to continue, and the new call repeats its reasoning.
        keep_text = options.recovery == "continue" and bool(before)
        start = Start(queued.model, self._consumer)
        claimed = await response_log.claim(
            store, job, self._consumer, start, keep_text=keep_text, max_attempts=options.max_attempts
        )
        match claimed:
            case Claimed():
                pass
            case "exhausted":
                await self._fail("attempts", "The answer was interrupted too often.", retryable=True)
                return None
            case "unreadable":
                await self._fail("unreadable", "The answer could not be continued.", retryable=True)
                return None
            case "expired":
                await self._fail_expired()
                return None
            case _:
                return None
        kind = log_entries.CONTINUE if keep_text else log_entries.START
        attempt = Attempt(claimed.before, claimed.start, kind + msgspec.json.encode(start))
        self._writer = Writer(store, job, attempt, self._batch, self._tick, options.store_patience_s)
        logger.info("attempt_started", extra=self._log_fields)
        if attempt.number == 1:
            metrics.FIRST_ATTEMPTS.inc()
            metrics.QUEUE_WAIT.observe(max(0.0, time.time() - job.queued_at))
        else:
            metrics.TAKE_OVERS.inc()
        self.instructions_id = queued.instructions_id
        instructions = await history_log.instructions(store, job.conversation, queued, options.store_patience_s)
        if instructions is None and queued.instructions_id is not None:
            await self._fail("expired", "The instructions are no longer kept.", retryable=False)
            return None
        queued = await history_log.with_details(store, queued, options.store_patience_s)
        if queued is None:
            await self._fail("expired", "The metadata of the message is no longer kept.", retryable=False)
            return None
        request, replaced = await self._histories.read(
            queued,
            targets[0].model,
            instructions,
            response=job.response,
            max_characters=options.max_prompt_characters,
            timeout_s=options.store_patience_s,
        )
        partial = ""
        if keep_text:
            _, before = await self._read_log(claimed.start)
            partial = log_entries.unescape(before.escaped)
        elif replaced:
            partial = replaced
            self._batch.add(log_entries.TEXT, partial)
        if request is None:
            # A retry would fail in the same way, because the question is gone.
            await self._fail("expired", "The message is no longer kept.", retryable=False)
            return None
        return _Prepared(self._writer, targets, request, partial, queued.trace)

    async def _read_log(self, start: LogId | None = None) -> tuple[Queued | None, LogText]:
        """Return the request of the response, None without a readable one, and the text before the entry `start`.

        Read the text after the claim: a fenced worker may have appended until then.
        """
        queued: Queued | None = None
        text = LogText(start)
        pieces = response_log.pieces(self._store, self._job.response, self._options.store_patience_s)
        async with aclosing(pieces):
            async for piece in pieces:
                if queued is None:
                    first = log_entries.decode_response_entry(piece[0][1], self._job.response)
                    if not isinstance(first, Queued):
                        break
                    queued = first
                text.add(piece)
        return queued, text

    async def _answer(self, prepared: _Prepared) -> None:
        writer = prepared.writer
        attributes = {
            tracing.RESPONSE: self._job.response,
            tracing.CONVERSATION: self._job.conversation,
            "tokenwire.attempt": writer.attempt,
        }
        span = tracing.begin("attempt", SpanKind.CONSUMER, prepared.trace, attributes)
        trace = tracing.traceparent(span)
        loop = ProviderLoop(prepared.targets, self._breakers, writer, self._options, trace, self._log_fields)
        self._reading = loop
        try:
            reading = asyncio.create_task(loop.run(prepared.request, prepared.partial), name=self._job.response)
            writing = asyncio.create_task(writer.run())
            try:
                # The writer returns before the provider loop only with an exception.
                await asyncio.wait(
                    (reading, writing),
                    timeout=self._options.answer_timeout_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if writing.done():
                    writing.result()
                how = reading.result() if reading.done() else TOO_LONG
                # Before the writer writes the rest: nothing may be added behind it.
                reading.cancel()
                writer.complete()
                await writing
            finally:
                for task in (reading, writing):
                    task.cancel()
                await asyncio.gather(reading, writing, return_exceptions=True)
            await self._end(how)
        finally:
            span.end()

    async def _end(self, how: End) -> None:
        """Write the end: as this attempt, or before an attempt as the owner of the job."""
        self.ending = True
        self._how = how
        if self._writer is not None:
            ended: Any = await self._writer.end(how)
        else:
            owner = (self._job.id, self._consumer)
            ended = await response_log.end(self._store, self._job.conversation, self._job.response, how, owner=owner)
        if isinstance(ended, Ended) and ended.now:
            metrics.ENDED.labels(how.reason).inc()
            code = how.error.code if how.error is not None else None
            logger.info("response_ended", extra={**self._log_fields, "reason": how.reason, "code": code})

    @property
    def idle_tail(self) -> LogId | None:
        """The last id that the log should have; None while an append is in flight, and before and after the attempt."""
        return self._writer.idle_tail if self._writer is not None and not self.ending else None

    def extend(self, seconds: float) -> None:
        """Count this time not as silence of the provider: the event loop was blocked."""
        if self._reading is not None:
            self._reading.extend(seconds)

    def restore(self, last: LogId) -> None:
        """Append again what the log lost, whose last id is `last`: a silent provider causes no append."""
        if self._writer is not None:
            self._writer.restore(last)

    @property
    def decided(self) -> bool:
        """Whether the end was decided, so that it can be written again."""
        return self._writer is not None and self._how is not None

    async def end_again(self) -> None:
        """Write the end again, and entries before it, after the store lost them. Safe to cancel."""
        if self._writer is None or self._how is None:
            return
        try:
            await self._writer.end(self._how)
            logger.info("end_restored", extra=self._log_fields)
        except FencedError:
            logger.info("attempt_fenced", extra=self._log_fields)
        except StoreError as error:
            logger.warning("attempt_abandoned", extra={**self._log_fields, "error": type(error).__name__})

    async def _fail_expired(self) -> None:
        await self._fail("expired", "The message waited too long to be answered.", retryable=True)

    async def _fail(self, code: str, message: str, *, retryable: bool) -> None:
        """End the response as failed, if this worker still owns it."""
        try:
            await self._end(End("failed", error=Problem(code, message), retryable=retryable))
        except FencedError:
            logger.info("attempt_fenced", extra=self._log_fields)
        except StoreError as error:
            logger.warning("attempt_abandoned", extra={**self._log_fields, "error": type(error).__name__})

    @property
    def _log_fields(self) -> dict[str, Any]:
        attempt = self._writer.attempt if self._writer is not None else None
        return {"conversation": self._job.conversation, "response": self._job.response, "attempt": attempt}
