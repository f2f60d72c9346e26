"""Requests of clients over any transport: send, stop and retry. A send is repeatable by its idempotency key."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from opentelemetry.trace import SpanKind
from redis.exceptions import ResponseError

from gateway import metrics
from gateway.auth import ANONYMOUS
from gateway.served_models import ServedModels
from gateway.streams import history_log, jobs, keys, quota, response_log, tracing
from gateway.streams.history_log import NOBODY, Accepted, Asker, Refused, Submission
from gateway.streams.log_entries import End
from gateway.streams.log_fields import error_fields
from gateway.streams.quota import Exceeded, Limits
from gateway.streams.store.errors import StoreFullError, StoreUnavailableError
from gateway.streams.store.free_memory import FreeMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from opentelemetry.trace import Span

    from gateway.auth import Identity
    from gateway.streams.store.store import Store
    from gateway.wire import Retry, Send, Stop


logger = logging.getLogger(__name__)

T = TypeVar("T")


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
STORE_FULL: Final = Failure("store_full", "The store is full; the message was not accepted.", 30.0)
NO_LIMITS: Final = Limits()


def _ignore(response: str, submitted_at: float) -> None:
    pass


class Submissions:
    """Executes requests of clients on the store."""

    def __init__(
        self,
        store: Store,
        models: tuple[str, ...] | None,
        submitted: Callable[[str, float], None] = _ignore,
        limits: Limits = NO_LIMITS,
    ) -> None:
        """`models`: the aliases that clients may request; None: the workers decide.

        `submitted` is called with each accepted response and the event loop's time of its request. `limits`: those of
        each subject and conversation.
        """
        self._store = store
        self._models = models
        self._submitted = submitted
        self._limits = limits
        self._free_memory = FreeMemory(store)
        self._served = ServedModels(store)
        self._ending: set[asyncio.Task[Any]] = set()

    async def send(self, request: Send, identity: Identity) -> Accepted | Failure:
        """Accept a message. The caller has checked that the client may use the conversation.

        Safe to cancel: the message may be accepted all the same, and a repeated call returns the result.
        """
        return _counted("send", await self._send(request, identity))

    async def _send(self, request: Send, identity: Identity) -> Accepted | Failure:
        if self._models is not None and request.model not in self._models:
            return Failure("unknown_model", "There is no such model.")
        if self._models is None and not await self._served.serves(request.model):
            return Failure("unknown_model", "No worker serves this model.")
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
            metadata=request.metadata,
        )
        return await self._submit(submission, identity, request.if_busy, request.traceparent)

    async def stop(self, request: Stop, identity: Identity) -> Stopped | Failure:
        """End a response in any state. Safe to cancel and to repeat."""
        try:
            conversation = await self.conversation(request.response)
            if conversation is None or not identity.opens(conversation):
                return _NOT_FOUND
            now = await self._to_its_end(self._stop(conversation, request))
        except (StoreUnavailableError, StoreFullError, ResponseError) as error:
            return _failure(error)
        return Stopped(request.response, now)

    async def _stop(self, conversation: str, request: Stop) -> bool:
        end = End(request.reason, retryable=True)
        ended = await response_log.end(self._store, conversation, request.response, end)
        now = isinstance(ended, response_log.Ended) and ended.now
        if now:
            metrics.STOPS.labels(request.reason).inc()
            fields = {"conversation": conversation, "response": request.response, "reason": request.reason}
            logger.info("response_stopped", extra=fields)
        return now

    async def retry(self, request: Retry, identity: Identity) -> Accepted | Failure:
        """Request another answer to the message of a response that has ended. Safe to cancel; see `send`."""
        return _counted("retry", await self._retry(request, identity))

    async def _retry(self, request: Retry, identity: Identity) -> Accepted | Failure:
        try:
            queued = await response_log.request(self._store, request.response)
            if queued is None or not identity.opens(queued.conversation):
                return _NOT_FOUND
            details_id = queued.details_id
            queued = await history_log.with_details(self._store, queued)
            if queued is None:
                return Failure("not_found", "The metadata of this answer is not kept any more.")
            running = await jobs.conversation_of(self._store, request.response)
        except (StoreUnavailableError, StoreFullError, ResponseError) as error:
            return _failure(error)
        if running is not None:
            return Failure("still_running", "The answer has not ended.")
        submission = Submission(
            conversation=queued.conversation,
            key=request.key,
            model=queued.model,
            message=queued.message,
            instructions=queued.instructions,
            instructions_id=queued.instructions_id,
            max_tokens=queued.max_tokens,
            replaces=request.response,
            mode=request.mode,
            metadata=queued.metadata,
            details_id=details_id,
        )
        return await self._submit(submission, identity, "queue", request.traceparent)

    async def _submit(
        self,
        submission: Submission,
        identity: Identity,
        if_busy: Literal["queue", "reject", "interrupt"],
        parent: str | None,
    ) -> Accepted | Failure:
        attributes = {tracing.CONVERSATION: submission.conversation}
        span = tracing.begin("submit", SpanKind.SERVER, parent, attributes)
        try:
            result = await self._submit_in(span, submission, identity, if_busy)
            if isinstance(result, Accepted):
                span.set_attribute(tracing.RESPONSE, result.response)
            else:
                span.set_attribute("error.type", result.code)
            return result
        finally:
            span.end()

    async def _submit_in(
        self,
        span: Span,
        submission: Submission,
        identity: Identity,
        if_busy: Literal["queue", "reject", "interrupt"],
    ) -> Accepted | Failure:
        submitted_at = asyncio.get_running_loop().time()
        try:
            busy: history_log.IfBusy = "reject" if if_busy == "reject" else "queue"
            result = await self._within_limits(submission, identity, busy, tracing.traceparent(span))
            if isinstance(result, Accepted) and if_busy == "interrupt":
                # The message is in the history before these ends, so its answer follows them whatever fails here.
                for response in result.ahead:
                    end = response_log.end(
                        self._store, submission.conversation, response, End("stopped", retryable=True)
                    )
                    await self._to_its_end(end)
        except (StoreUnavailableError, StoreFullError, ResponseError) as error:
            return _failure(error)
        match result:
            case Failure():
                return result
            case Refused("quota", retry_after):
                return Failure("quota", "The daily storage limit of this conversation is reached.", retry_after)
            case Refused("expired"):
                return Failure("not_found", "The instructions of this answer are not kept any more.")
            case Refused("foreign"):
                return _NOT_FOUND
            case Refused("closed"):
                return Failure("forbidden", "This conversation is damaged and accepts no messages; begin another one.")
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

    async def _within_limits(
        self, submission: Submission, identity: Identity, if_busy: history_log.IfBusy, trace: str | None
    ) -> Accepted | Refused | Failure:
        """Submit within the limits of the subject. A repeated call is answered beyond them too."""
        limits, subject = self._limits, keys.subject_digest(identity.subject)
        response = history_log.new_response(submission.conversation)
        # Without tokens all clients have the same subject, and its limits would be those of the whole service.
        counted = identity is not ANONYMOUS and bool(limits.open_responses or limits.subject_bytes)
        asker = Asker(identity.subject, identity.claims) if identity is not ANONYMOUS else NOBODY
        size = submission.size(asker)
        refused: Failure | None = None
        if await self._free_memory.is_scarce():
            refused = STORE_FULL
        elif counted:
            refused = await self._reserve(size, subject, response)
        try:
            result = await history_log.submit(
                self._store,
                submission,
                if_busy,
                trace,
                subject=subject if counted else "",
                owner=subject,
                asker=asker,
                response=response,
                max_bytes=limits.conversation_bytes,
                only_known=refused is not None,
            )
            changed = isinstance(result, Accepted) and not result.duplicate
        except (StoreFullError, ResponseError):
            # After a cancellation or an outage it may have been accepted, so the reservation is left to expire:
            # otherwise a client could get rid of the limit by disconnecting.
            if counted and refused is None:
                await quota.release(self._store, subject, response, -size)
            raise
        if counted and refused is None and not changed:
            await quota.release(self._store, subject, response, -size)
        return refused if refused is not None and result == Refused("unknown") else result

    async def _reserve(self, size: int, subject: str, response: str) -> Failure | None:
        try:
            exceeded = await quota.reserve(self._store, subject, response, size, self._limits)
        except StoreFullError:
            return STORE_FULL
        match exceeded:
            case Exceeded("open", retry_after):
                return Failure("too_many", "Too many of your answers are open.", retry_after)
            case Exceeded("bytes", retry_after):
                return Failure("quota", "Your daily storage limit is reached.", retry_after)
            case _:
                return None

    async def _to_its_end(self, work: Coroutine[None, None, T]) -> T:
        """Await the end of a response, which is completed and counted even if the client disconnects meanwhile."""
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._ending.discard(task)
        if not task.cancelled():
            # The caller may be gone.
            task.exception()

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
        return STORE_FULL
    if isinstance(error, ResponseError):
        # Such as a key of this conversation that another program wrote: the connection and others must not fail.
        logger.error("submission_failed", extra=error_fields(error))
    return Failure("unavailable", "The service is not available for a moment; nothing is lost.", 2.0)
