"""Prompt building: the messages of a provider request, and the partial text that an answer continues."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.streams import log_entries
from gateway.streams.log_entries import Opened, Settled, UserMessage
from workers.providers import Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.streams.log_entries import LogId, Queued
    from workers.providers import Message

CONTINUE_INSTRUCTION: Final = (
    "Your answer above was cut off. Continue it exactly where it stops, in the same language and format. "
    "Do not repeat any of it, do not apologise, and do not mention that it was cut off."
)
"""Sent after the partial text, to targets that reject an answer as the last message."""

SEPARATOR: Final = "\n\n"
"""Between questions that are joined."""


def request(
    queued: Queued, model: str, history: Iterable[bytes], *, response: str, max_characters: int
) -> Request | None:
    """Return the request for a response; None if the history no longer contains its message."""
    asked = messages(history, queued.message, max_characters)
    if not asked:
        return None
    return Request(
        model=model,
        messages=asked,
        instructions=queued.instructions,
        max_tokens=queued.max_tokens,
        conversation=queued.conversation,
        response=response,
        user=queued.user,
        claims=queued.claims,
        metadata=queued.metadata or {},
    )


def continued(request: Request, partial: str, *, prefill: bool) -> Request:
    """Return the request for the rest of an answer of which `partial` is shown; the same request if that is blank.

    `prefill`: the target continues an answer that is the last message. Others are asked to, in a further message.
    """
    # Providers refuse a last message that ends with white space, and repeat it or not: the overlap filter decides.
    partial = partial.rstrip() if prefill else partial
    if not partial.strip():
        return request
    rest: list[Message] = [{"role": "assistant", "content": partial}]
    if not prefill:
        rest.append({"role": "user", "content": CONTINUE_INSTRUCTION})
    return dataclasses.replace(request, messages=[*request.messages, *rest])


def text_before(entries: Iterable[tuple[LogId, bytes]], start: LogId | None) -> str:
    """Return the text that earlier attempts wrote before the entry `start`, or so far.

    Read the entries after the claim: a fenced worker may have appended text until then.
    """
    text = b""
    for entry, value in entries:
        if start is not None and entry.seq >= start.seq:
            break
        if value[:1] == log_entries.TEXT:
            text += log_entries.text_body(value)
        elif value[:1] == log_entries.START:
            text = b""
    return log_entries.unescape(text)


def settled_text(history: Iterable[bytes], response: str) -> str:
    """Return the text of a response that has ended; "" if the history does not contain it."""
    for value in history:
        entry = log_entries.decode_history_entry(value)
        if isinstance(entry, Settled) and entry.response == response:
            return log_entries.unescape(bytes(entry.text)[1:-1])
    return ""


def messages(history: Iterable[bytes], message: str, max_characters: int) -> list[Message]:
    """Return the newest messages up to and including `message`, in about `max_characters` characters.

    The order is that of the page: each question is followed by its answer, even if further questions arrived before the
    answer, and a rephrased question stands where the first one stood. Replaced answers and blank messages are omitted.
    Questions without an answer are joined to the next one, because many models require that the roles alternate. Empty
    if the history does not contain `message`.
    """
    exchanges, _ = _exchanges(history, message)
    return _alternating(exchanges[len(exchanges) - _fitting(exchanges, max_characters) :])


def suffices(history: Sequence[bytes], queued: Queued, max_characters: int) -> bool:
    """Tell whether a prompt is the same from these newest entries as from the whole history."""
    if queued.mode == "continue" and queued.replaces is not None and not settled_text(history, queued.replaces):
        return False
    exchanges, placed = _exchanges(history, queued.message)
    # The oldest exchange may lack its answer here, so it must be one that is left out. Questions whose place is unknown
    # rephrase one that is older than all of these.
    return placed and _fitting(exchanges, max_characters) < len(exchanges)


@dataclass(slots=True)
class _Exchange:
    message: str
    question: str
    answer: str = ""
    answered_by: str = ""

    @property
    def size(self) -> int:
        return len(self.question) + len(self.answer)


def _exchanges(history: Iterable[bytes], message: str) -> tuple[list[_Exchange], bool]:
    """Return the exchanges up to `message` in the order of the page; see `messages`.

    Also return whether all of them have their place: that of a rephrased question may be before these entries.
    """
    page = _Page(message)
    for value in history:
        match log_entries.decode_history_entry(value):
            case UserMessage() as asked:
                page.ask(asked)
            case Opened() as opened:
                page.open(opened)
            case Settled() as settled:
                page.settle(settled)
    return page.exchanges()


class _Page:
    """The exchanges of a conversation in the order in which clients show them."""

    def __init__(self, message: str) -> None:
        """`message`: the one that is answered. It keeps its place when it is rephrased before its answer ends."""
        self._message = message
        self._places: list[_Exchange] = []
        self._place_of: dict[str, int] = {}
        """By message."""
        self._question_of: dict[str, str] = {}
        """By response."""
        self._placed = True

    def ask(self, asked: UserMessage) -> None:
        exchange = _Exchange(asked.id, asked.text)
        if asked.replaces is not None:
            place = self._place_of.get(self._question_of.get(asked.replaces, ""))
            if place is None:
                self._placed = False
            elif self._places[place].message != self._message:
                self._places[place] = exchange
                self._place_of[asked.id] = place
                return
        self._place_of[asked.id] = len(self._places)
        self._places.append(exchange)

    def open(self, opened: Opened) -> None:
        self._question_of[opened.response] = opened.message
        if opened.replaces is not None:
            exchange = self._exchange_of(opened.replaces)
            if exchange is not None and exchange.answered_by == opened.replaces:
                exchange.answer = exchange.answered_by = ""

    def settle(self, settled: Settled) -> None:
        exchange = self._exchange_of(settled.response)
        text = log_entries.unescape(bytes(settled.text)[1:-1])
        if exchange is not None and text.strip():
            exchange.answer, exchange.answered_by = text, settled.response

    def exchanges(self) -> tuple[list[_Exchange], bool]:
        place = self._place_of.get(self._message)
        if place is None:
            return [], self._placed
        before = [exchange for exchange in self._places[:place] if exchange.question.strip()]
        return [*before, _Exchange(self._message, self._places[place].question)], self._placed

    def _exchange_of(self, response: str) -> _Exchange | None:
        """Return the exchange of a response; None if it is not shown: an earlier wording, or not in these entries."""
        question = self._question_of.get(response, "")
        place = self._place_of.get(question)
        return self._places[place] if place is not None and self._places[place].message == question else None


def _fitting(exchanges: Sequence[_Exchange], max_characters: int) -> int:
    """Return how many of the newest exchanges fit; at least one."""
    remaining = max_characters
    for count, exchange in enumerate(reversed(exchanges)):
        remaining -= exchange.size
        if count and remaining < 0:
            return count
    return len(exchanges)


def _alternating(exchanges: Iterable[_Exchange]) -> list[Message]:
    alternating: list[Message] = []
    waiting: list[str] = []
    for exchange in exchanges:
        waiting.append(exchange.question)
        if exchange.answer:
            alternating.append({"role": "user", "content": SEPARATOR.join(waiting)})
            alternating.append({"role": "assistant", "content": exchange.answer})
            waiting = []
    if waiting:
        alternating.append({"role": "user", "content": SEPARATOR.join(waiting)})
    return alternating
