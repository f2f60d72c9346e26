"""One job: one start, its tokens, one end."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from opentelemetry.trace import SpanKind

from gateway.streams import history_log, log_entries, response_log, tracing
from gateway.streams.log_entries import End, LogId, Problem, Queued, Start, Waiting
from gateway.streams.records import Working
from gateway.streams.response_log import Claimed, Ended, TailMismatch
from gateway.streams.store.errors import StoreError
from workers import metrics, prompt
from workers.attempt import Attempt
from workers.batch import Batch
from workers.overlap import INSTRUCTION, OverlapFilter
from workers.provider_call import Call
from workers.providers import Finish, Message, ProviderError, Reasoning, Request, Served, Text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.streams.jobs import Job
    from gateway.streams.store.store import Store
    from workers.ticks import SharedTick

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How a worker works; times in seconds. The settings of the same names say more."""

    lease: float = 5.0
    attempts: int = 3
    recovery: Literal["restart", "continue"] = "restart"
    window: float = 0.005
    patience: float = 60.0
    first_timeout: float = 120.0
    idle_timeout: float = 60.0
    longest: int = 1_000_000
    context: int = 100_000


class SupersededError(Exception):
    """The log has an end, or another attempt: nothing is left to do here."""


class Generation:
    """A worker's try at one response."""

    def __init__(
        self,
        store: Store,
        job: Job,
        consumer: str,
        providers: Mapping[str, Served],
        terms: GenerationOptions,
        beats: SharedTick,
    ) -> None:
        """`providers`: each alias to what it leads to."""
        self._store = store
        self._job = job
        self._consumer = consumer
        self._providers = providers
        self._terms = terms
        self._beats = beats
        self._batch = Batch(terms.longest)
        self._wake = asyncio.Event()
        self._complete = False
        self._attempt: Attempt | None = None
        self._model = ""
        self._trace: str | None = None
        """The traceparent of this attempt."""
        self._begun_at = time.monotonic()
        self._size = 0
        self.ending = False
        """Whether the end is being written; what is then heard of an end is most likely this one."""

    def working(self, elapsed: float) -> Working:
        """What is done of it by now; `elapsed`: the seconds since this was last asked."""
        size, before = self._batch.size, self._size
        self._size = size
        attempt = self._attempt
        return Working(
            self._job.response,
            self._job.conversation,
            self._model,
            attempt.number if attempt is not None else 0,
            round(time.monotonic() - self._begun_at, 1),
            attempt.written if attempt is not None else 0,
            size,
            round((size - before) / elapsed, 1),
        )

    async def run(self) -> None:
        """Answer the job's response; return when its log has an end, or is no longer this worker's."""
        try:
            await self._run()
        except SupersededError:
            logger.info("the attempt is over", extra=self._about)
        except asyncio.CancelledError:
            logger.info("the attempt is over", extra=self._about)
            raise
        except StoreError as error:
            # No failure of the answer: whoever takes the job over finds all that was written.
            logger.warning("the response is left to its lease (%s)", type(error).__name__, extra=self._about)
        except Exception as error:
            # The frames without the message: that may hold what somebody wrote.
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error("the worker failed (%s)\n%s", type(error).__name__, where, extra=self._about)
            await self._give_up("internal", "The answer could not be written.", retryable=True)

    async def _run(self) -> None:
        job, store = self._job, self._store
        entries = await response_log.read(store, job.response, timeout_s=self._terms.patience)
        queued = log_entries.decode_response_entry(entries[0][1]) if entries else None
        if not isinstance(queued, Queued):
            await self._give_up("expired", "The message waited too long to be answered.", retryable=True)
            return
        self._model = queued.model
        served = self._providers.get(queued.model)
        if served is None:
            await self._give_up("unknown_model", "There is no such model.", retryable=False)
            return
        keep = self._terms.recovery == "continue" and entries[-1][0].number > 0
        start = Start(queued.model, self._consumer)
        claimed = await response_log.claim(
            store, job, self._consumer, start, keep_text=keep, most_attempts=self._terms.attempts
        )
        match claimed:
            case Claimed(before, begun):
                kind = log_entries.CONTINUE if keep else log_entries.START
                self._attempt = Attempt(before, begun, kind + msgspec.json.encode(start))
            case "exhausted":
                await self._give_up("attempts", "The answer was interrupted too often.", retryable=True)
                return
            case "expired":
                await self._give_up("expired", "The message waited too long to be answered.", retryable=True)
                return
            case _:
                return
        logger.info("the attempt begins", extra=self._about)
        if begun.number == 1:
            metrics.FIRST_ATTEMPTS.inc()
            metrics.QUEUE_WAIT.observe(max(0.0, time.time() - job.queued_at))
        else:
            metrics.TAKE_OVERS.inc()
        partial = await self._text_before(begun) if keep else ""
        if not partial and queued.mode == "continue" and queued.replaces is not None:
            partial = await self._text_of(queued.replaces)
            self._batch.add(log_entries.TEXT, partial)
        request = await self._request(queued, served.model, partial)
        if request is None:
            await self._give_up("expired", "The message is no longer kept.", retryable=False)
            return
        about = {
            tracing.RESPONSE: job.response,
            tracing.CONVERSATION: job.conversation,
            "tokenwire.attempt": begun.number,
        }
        span = tracing.begin("attempt", SpanKind.CONSUMER, queued.trace, about)
        self._trace = tracing.traceparent(span)
        try:
            await self._answer(request, served, OverlapFilter(partial))
        finally:
            span.end()

    async def _request(self, queued: Queued, model: str, partial: str) -> Request | None:
        """What the provider is asked; None where the history no longer holds the message."""
        turns = await history_log.read(self._store, self._job.conversation, timeout_s=self._terms.patience)
        said = prompt.messages([value for _, value in turns], queued.message, self._terms.context)
        if not said:
            return None
        if partial:
            going_on: list[Message] = [
                {"role": "assistant", "content": partial},
                {"role": "user", "content": INSTRUCTION},
            ]
            said += going_on
        return Request(model, said, queued.instructions, queued.max_tokens, self._job.conversation, self._job.response)

    async def _answer(self, request: Request, served: Served, seam: OverlapFilter) -> None:
        listener = asyncio.create_task(self._listen(request, served, seam))
        writer = asyncio.create_task(self._write())
        try:
            # The writer only returns before the listener when it can not go on, and then says why.
            await asyncio.wait((listener, writer), return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                writer.result()
            how = listener.result()
            self._complete = True
            self._wake.set()
            await writer
        finally:
            for task in (listener, writer):
                task.cancel()
            await asyncio.gather(listener, writer, return_exceptions=True)
        await self._end(how)

    async def _listen(self, request: Request, served: Served, seam: OverlapFilter) -> End:
        """Hear the provider out, asking again while nothing has come; return how it ended."""
        deadline = self._now() + self._terms.patience
        tries = 0
        while True:
            heard = False
            call = Call(served.name, served.model, request, self._trace)
            error = "internal"
            try:
                async with call.answered(served.provider(request)) as stream:
                    async with asyncio.timeout(self._terms.first_timeout) as limit:
                        lasts = 0.0
                        async for event in stream:
                            now = self._now()
                            if now + self._terms.idle_timeout > lasts:
                                # Somewhat later than it has to be, because this costs as much as it does to read.
                                lasts = now + self._terms.idle_timeout * 1.1
                                limit.reschedule(lasts)
                            if not heard:
                                heard = not isinstance(event, Finish)
                                call.heard()
                            match event:
                                case Text(text):
                                    self._gather(log_entries.TEXT, seam.feed(text))
                                case Reasoning(text):
                                    self._gather(log_entries.REASONING, text)
                                case Finish(reason, usage):
                                    error = ""
                                    call.used(usage)
                                    self._gather(log_entries.TEXT, seam.close())
                                    return End(reason, usage=dict(usage) or None, retryable=reason != "complete")
                            if self._batch.full:
                                error = ""
                                return End("length", retryable=False)
                raise ProviderError("provider_incomplete", "The answer broke off.", retryable=True)
            except TimeoutError:
                problem = ProviderError("provider_silent", "The model has stopped answering.", retryable=True)
                error = problem.code
            except ProviderError as failure:
                problem = failure
                error = problem.code
            except asyncio.CancelledError:
                error = "cancelled"
                raise
            finally:
                call.over(error)
            self._gather(log_entries.TEXT, seam.close() if heard else "")
            tries += 1
            pause = problem.retry_after if problem.retry_after is not None else min(8.0, 0.5 * 2**tries)
            pause *= random.uniform(1.0, 1.1)  # noqa: S311 - spreads the tries of many workers
            if heard or not problem.retryable or self._now() + pause > deadline:
                logger.info("the provider failed (%s)", problem.code, extra=self._about)
                return End("failed", error=Problem(problem.code, problem.message), retryable=problem.retryable)
            assert self._attempt is not None
            metrics.PROVIDER_WAITS.labels(problem.code).inc()
            self._attempt.add([log_entries.encode(log_entries.WAITING, Waiting(round(pause, 1)))])
            self._wake.set()
            await asyncio.sleep(pause)

    def _gather(self, kind: bytes, text: str) -> None:
        if text:
            self._batch.add(kind, text)
            self._wake.set()

    async def _write(self) -> None:
        """Append what is due until all is written."""
        assert self._attempt is not None
        while True:
            beat = self._beats.number
            if self._complete or self._batch.due(beat):
                self._attempt.add(self._batch.take(beat, last=self._complete))
            if await self._append():
                continue
            if self._complete:
                return
            if self._batch.empty:
                self._wake.clear()
                await self._wake.wait()
            else:
                await self._beats.next()

    async def _append(self) -> bool:
        """Make the next append; False: there is none to make."""
        attempt = self._attempt
        assert attempt is not None
        append = attempt.next()
        if append is None:
            return False
        result: Any = await response_log.append(
            self._store,
            self._job.conversation,
            self._job.response,
            append.expected,
            append.first,
            append.values,
            timeout_s=self._terms.patience,
        )
        if result == "appended":
            attempt.appended(append)
            metrics.APPENDS.inc()
            metrics.APPENDED.inc(len(append.values))
        else:
            self._refused(result)
        return True

    def _refused(self, last: LogId | None) -> None:
        assert self._attempt is not None
        if not self._attempt.refused(last):
            metrics.FENCES.labels("append").inc()
            raise SupersededError

    async def _end(self, how: End) -> None:
        assert self._attempt is not None
        self.ending = True
        while True:
            while await self._append():
                pass
            result = await response_log.end(
                self._store,
                self._job.conversation,
                self._job.response,
                how,
                expected=self._attempt.tail,
                timeout_s=self._terms.patience,
            )
            match result:
                case TailMismatch(last):
                    self._refused(last)
                case Ended(now=now):
                    if now:
                        metrics.ENDED.labels(how.reason).inc()
                        logger.info("the response ended: %s", how.reason, extra=self._about)
                    return
                case None:
                    return

    async def _give_up(self, code: str, message: str, *, retryable: bool) -> None:
        """End the response as failed, if it is still this worker's to end."""
        how = End("failed", error=Problem(code, message), retryable=retryable)
        try:
            if self._attempt is not None:
                await self._end(how)
            else:
                self.ending = True
                ended = await response_log.end(
                    self._store, self._job.conversation, self._job.response, how, owner=self._owner
                )
                if isinstance(ended, Ended) and ended.now:
                    metrics.ENDED.labels(how.reason).inc()
                    logger.info("the response ended: %s (%s)", how.reason, code, extra=self._about)
        except (SupersededError, StoreError) as error:
            logger.info("the response is left to another worker (%s)", type(error).__name__, extra=self._about)

    @property
    def _about(self) -> dict[str, Any]:
        """What a log record is about."""
        attempt = self._attempt.number if self._attempt is not None else None
        return {"conversation": self._job.conversation, "response": self._job.response, "attempt": attempt}

    @property
    def _owner(self) -> tuple[str, str]:
        return self._job.id, self._consumer

    async def _text_before(self, start: LogId) -> str:
        # Read after the claim: what a fenced worker still wrote before it belongs to the text that is kept.
        text = b""
        for entry, value in await response_log.read(self._store, self._job.response):
            if entry.seq >= start.seq:
                break
            if value[:1] == log_entries.TEXT:
                text += value[1:]
            elif value[:1] == log_entries.START:
                text = b""
        return log_entries.unescape(text)

    async def _text_of(self, response: str) -> str:
        for _, value in await history_log.read(self._store, self._job.conversation):
            entry = log_entries.decode_history_entry(value)
            if isinstance(entry, log_entries.Settled) and entry.response == response:
                return log_entries.unescape(bytes(entry.text)[1:-1])
        return ""

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
