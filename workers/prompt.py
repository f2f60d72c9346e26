"""Prompt building: the messages of a provider request, and the partial text that an answer continues."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from gateway.streams import log_entries
from gateway.streams.log_entries import Opened, Settled, UserMessage
from workers.providers import Request
from workers.providers.blank import is_blank

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.streams.log_entries import Queued
    from workers.providers import Message

CONTINUE_INSTRUCTION: Final = (
    "Your answer above was cut off. Continue it exactly where it stops, in the same language and format. "
    "Do not repeat any of it, do not apologise, and do not mention that it was cut off."
)
"""Sent after the partial text, to targets that reject an answer as the last message."""

SEPARATOR: Final = "\n\n"
"""Between questions that are joined."""

MIN_PARTIAL_SHARE: Final = 4
"""One part in so many of the context is left for partial text: without any, the answer would begin again."""

BYTES_PER_CHARACTER: Final = 4
"""Of memory and of UTF-8 at most."""

_Entry: TypeAlias = "UserMessage | Opened | _Answer"


def continued(request: Request, partial: str, *, prefill: bool, max_characters: int) -> Request:
    """Return the request for the rest of an answer of which `partial` is shown; the same request if that is blank.

    `prefill`: the target continues an answer that is the last message. Others are asked to, in a further message.
    `max_characters`: of all messages. The question stays whole, then the newest part of the partial text has priority,
    then the newest of the other messages. Beside a question that fills them, a quarter is left for the partial text.
    """
    # Providers refuse a last message that ends with white space, and repeat it or not: the overlap filter decides.
    partial = partial.rstrip() if prefill else partial
    if is_blank(partial):
        return request
    *earlier, question = request.messages
    rest: list[Message] = [] if prefill else [{"role": "user", "content": CONTINUE_INSTRUCTION}]
    free = max_characters - len(question["content"]) - sum(len(message["content"]) for message in rest)
    partial = partial[-max(free, max_characters // MIN_PARTIAL_SHARE, 1) :]
    free -= len(partial)
    kept = len(earlier)
    # In pairs of question and answer, because the roles alternate.
    while kept and (free := free - len(earlier[kept - 1]["content"]) - len(earlier[kept - 2]["content"])) >= 0:
        kept -= 2
    rest.insert(0, {"role": "assistant", "content": partial})
    return dataclasses.replace(request, messages=[*earlier[kept:], question, *rest])


class History:
    """The newest entries of a history, as far as the prompt of a response needs them. Each is decoded once."""

    def __init__(self, queued: Queued, max_characters: int) -> None:
        """`max_characters`: about those of the messages together."""
        self._queued = queued
        self._max_characters = max_characters
        self._continues = queued.replaces if queued.mode == "continue" else None
        self._entries: list[_Entry] = []
        """The newest first."""
        self._check_at = 0
        self.size = 0
        """Bytes of memory."""
        self.partial = ""
        """The text that a retry continues."""

    def add_older(self, values: Sequence[bytes]) -> None:
        """Add the entries before those that were added, oldest first."""
        for value in reversed(values):
            entry = log_entries.decode_history_entry(value)
            self.size += len(value)
            match entry:
                case UserMessage():
                    self._entries.append(entry)
                    self._count_text(value, entry.text)
                case Opened():
                    self._entries.append(entry)
                    if entry.response == self._continues:
                        # It had no text, because the text of a response follows its opening.
                        self._continues = None
                case Settled():
                    text = log_entries.unescape(bytes(entry.text)[1:-1])
                    self._entries.append(_Answer(entry.response, text))
                    self._count_text(value, text)
                    if entry.response == self._continues:
                        self.partial, self._continues = text, None

    def _count_text(self, value: bytes, text: str) -> None:
        # One emoji quadruples the memory of a text.
        self.size += max(0, text.__sizeof__() - len(value))

    @property
    def is_long(self) -> bool:
        """Whether there are more entries than the messages alone can need."""
        return self.size > BYTES_PER_CHARACTER * self._max_characters

    def suffices(self) -> bool:
        """Tell whether the request is the same from these entries as from the whole history.

        False also while few entries were added to a long history since the last call: so all calls together cost
        about as much as one.
        """
        if self._continues is not None or self.size < self._check_at:
            return False
        if self.is_long:
            self._check_at = self.size + self.size // 2
        exchanges, placed = self._exchanges()
        # The oldest exchange may lack its answer here, so it must be one that is left out. Questions whose place is
        # unknown rephrase one that is older than all of these.
        return placed and _fitting(exchanges, self._max_characters) < len(exchanges)

    def messages(self) -> list[Message]:
        """Return the newest messages up to the one that is answered.

        The order is that of the page: each question is followed by its answer, even if further questions arrived before
        the answer, and a rephrased question stands where the first one stood. Replaced answers and blank messages are
        omitted. Questions without an answer are joined to the next one, because many models require that the roles
        alternate. Empty if these entries do not contain the message.
        """
        exchanges, _ = self._exchanges()
        return _alternating(exchanges[len(exchanges) - _fitting(exchanges, self._max_characters) :])

    def request(self, model: str, instructions: str | None, *, response: str) -> Request | None:
        """Return the request for the response; None if the history no longer contains its message."""
        queued, messages = self._queued, self.messages()
        if not messages:
            return None
        return Request(
            model=model,
            messages=messages,
            instructions=instructions,
            max_tokens=queued.max_tokens,
            conversation=queued.conversation,
            response=response,
            user=queued.user,
            claims=queued.claims,
            metadata=queued.metadata or {},
        )

    def _exchanges(self) -> tuple[list[_Exchange], bool]:
        """Return the exchanges up to the message in the order of the page; see `messages`.

        Also return whether all of them have their place: that of a rephrased question may be before these entries.
        """
        page = _Page(self._queued.message)
        for entry in reversed(self._entries):
            match entry:
                case UserMessage():
                    page.ask(entry)
                case Opened():
                    page.open(entry)
                case _:
                    page.settle(entry)
        return page.exchanges()


class _Answer(NamedTuple):
    response: str
    text: str


@dataclass(slots=True)
class _Exchange:
    message: str
    question: str
    answer: str = ""
    answered_by: str = ""

    @property
    def size(self) -> int:
        return len(self.question) + len(self.answer)


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

    def settle(self, answer: _Answer) -> None:
        exchange = self._exchange_of(answer.response)
        if exchange is not None and not is_blank(answer.text):
            exchange.answer, exchange.answered_by = answer.text, answer.response

    def exchanges(self) -> tuple[list[_Exchange], bool]:
        place = self._place_of.get(self._message)
        if place is None:
            return [], self._placed
        before = [exchange for exchange in self._places[:place] if not is_blank(exchange.question)]
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
