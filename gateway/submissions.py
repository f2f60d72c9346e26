"""Requests of clients over any transport: send, stop and retry. A send is repeatable by its idempotency key."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from opentelemetry.trace import SpanKind

from gateway import metrics
from gateway.streams import history_log, jobs, keys, response_log, tracing
from gateway.streams.history_log import Accepted, Refused, Submission
from gateway.streams.log_entries import End
from gateway.streams.store.errors import StoreFullError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span

    from gateway.auth import Identity
    from gateway.streams.store.store import Store
    from gateway.wire import Retry, Send, Stop


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """The request changed nothing; `code` is one of `wire.ERRORS`."""

    code: str
    message: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """The response has an end; `now`: this request wrote it."""

    response: str
    now: bool


_NOT_FOUND = Failure("not_found", "There is no such response.")


def _ignore(response: str, submitted_at: float) -> None:
    pass


class Submissions:
    """Executes requests of clients on the store."""

    def __init__(
        self, store: Store, models: tuple[str, ...] | None, submitted: Callable[[str, float], None] = _ignore
    ) -> None:
        """`models`: the aliases that clients may request; None: the workers decide.

        `submitted` is called with each accepted response and the event loop's time of its request.
        """
        self._store = store
        self._models = models
        self._submitted = submitted

    async def send(self, request: Send) -> Accepted | Failure:
        """Accept a message. The caller has checked that the client may use the conversation.

        Safe to cancel: the message may be accepted all the same, and a repeated call returns the result.
        """
        return _counted("send", await self._send(request))

    async def _send(self, request: Send) -> Accepted | Failure:
        if self._models is not None and request.model not in self._models:
            return Failure("unknown_model", "There is no such model.")
        if request.replaces is not None:
            if not keys.is_response(request.replaces):
                return _NOT_FOUND
            if keys.partition_of_response(request.replaces) != keys.partition_of(request.conversation):
                return _NOT_FOUND
        submission = Submission(
            conversation=request.conversation,
            key=request.key,
            model=request.model,
            text=request.text,
            instructions=request.instructions,
            max_tokens=request.max_tokens,
            replaces=request.replaces,
        )
        return await self._submit(submission, request.if_busy, request.traceparent)

    async def stop(self, request: Stop, identity: Identity) -> Stopped | Failure:
        """End a response in any state. Safe to cancel and to repeat."""
        try:
            conversation = await self.conversation(request.response)
            if conversation is None or not identity.opens(conversation):
                return _NOT_FOUND
            ended = await response_log.end(
                self._store, conversation, request.response, End(request.reason, retryable=True)
            )
        except (StoreUnavailableError, StoreFullError) as error:
            return _failure(error)
        now = isinstance(ended, response_log.Ended) and ended.now
        if now:
            metrics.STOPS.labels(request.reason).inc()
            logger.info(
                "response_stopped",
                extra={"conversation": conversation, "response": request.response, "reason": request.reason},
            )
        return Stopped(request.response, now)

    async def retry(self, request: Retry, identity: Identity) -> Accepted | Failure:
        """Request another answer to the message of a response that has ended. Safe to cancel; see `send`."""
        return _counted("retry", await self._retry(request, identity))

    async def _retry(self, request: Retry, identity: Identity) -> Accepted | Failure:
        try:
            queued = await response_log.request(self._store, request.response)
            if queued is None or not identity.opens(queued.conversation):
                return _NOT_FOUND
            running = await jobs.conversation_of(self._store, request.response)
        except (StoreUnavailableError, StoreFullError) as error:
            return _failure(error)
        if running is not None:
            return Failure("still_running", "The answer has not ended.")
        submission = Submission(
            conversation=queued.conversation,
            key=request.key,
            model=queued.model,
            message=queued.message,
            instructions=queued.instructions,
            max_tokens=queued.max_tokens,
            replaces=request.response,
            mode=request.mode,
        )
        return await self._submit(submission, "queue", request.traceparent)

    async def _submit(
        self, submission: Submission, if_busy: Literal["queue", "reject", "interrupt"], parent: str | None
    ) -> Accepted | Failure:
        attributes = {tracing.CONVERSATION: submission.conversation}
        span = tracing.begin("submit", SpanKind.SERVER, parent, attributes)
        try:
            result = await self._submit_in(span, submission, if_busy)
            if isinstance(result, Accepted):
                span.set_attribute(tracing.RESPONSE, result.response)
            else:
                span.set_attribute("error.type", result.code)
            return result
        finally:
            span.end()

    async def _submit_in(
        self, span: Span, submission: Submission, if_busy: Literal["queue", "reject", "interrupt"]
    ) -> Accepted | Failure:
        submitted_at = asyncio.get_running_loop().time()
        try:
            busy: history_log.IfBusy = "reject" if if_busy == "reject" else "queue"
            result = await history_log.submit(self._store, submission, busy, tracing.traceparent(span))
            if isinstance(result, Accepted) and if_busy == "interrupt":
                # The message is in the history before these ends, so its answer follows them whatever fails here.
                for response in result.ahead:
                    await response_log.end(
                        self._store, submission.conversation, response, End("stopped", retryable=True)
                    )
        except (StoreUnavailableError, StoreFullError) as error:
            return _failure(error)
        match result:
            case Refused("conflict"):
                return Failure("key_conflict", "This key was used for another message.")
            case Refused("busy"):
                return Failure("busy", "An answer is being written.")
            case Refused():
                return Failure("too_many", "Too many messages wait for an answer.", 5.0)
        if not result.duplicate:
            self._submitted(result.response, submitted_at)
            logger.info(
                "response_submitted", extra={"conversation": submission.conversation, "response": result.response}
            )
        return result

    async def conversation(self, response: str) -> str | None:
        """Return the conversation of a response; None if unknown or expired. Safe to cancel; raises StoreError."""
        queued = await response_log.request(self._store, response)
        return queued.conversation if queued else await jobs.conversation_of(self._store, response)


def _counted(kind: str, result: Accepted | Failure) -> Accepted | Failure:
    outcome = result.code if isinstance(result, Failure) else "duplicate" if result.duplicate else "accepted"
    metrics.SUBMITS.labels(kind, outcome).inc()
    return result


def _failure(error: Exception) -> Failure:
    if isinstance(error, StoreFullError):
        return Failure("store_full", "The service is full; nothing was accepted.", 30.0)
    return Failure("unavailable", "The service is not available for a moment; nothing is lost.", 2.0)
