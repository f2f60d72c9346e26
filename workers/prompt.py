"""Prompt building: the messages of a provider request, and the partial text that an answer continues."""

from __future__ import annotations

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
"""Sent after the partial text. A user message, because current models reject a prefilled answer."""


def request(
    queued: Queued, model: str, history: Iterable[bytes], partial: str, *, response: str, max_characters: int
) -> Request | None:
    """Return the request for a response; None if the history no longer contains its message.

    `partial` is the text to continue, "" for a new answer.
    """
    asked = messages(history, queued.message, max_characters)
    if not asked:
        return None
    if partial:
        continuation: list[Message] = [
            {"role": "assistant", "content": partial},
            {"role": "user", "content": CONTINUE_INSTRUCTION},
        ]
        asked += continuation
    return Request(
        model=model,
        messages=asked,
        instructions=queued.instructions,
        max_tokens=queued.max_tokens,
        conversation=queued.conversation,
        response=response,
    )


def text_before(entries: Iterable[tuple[LogId, bytes]], start: LogId) -> str:
    """Return the text that earlier attempts wrote before the entry `start`.

    Read the entries after the claim: a fenced worker may have appended text until then.
    """
    text = b""
    for entry, value in entries:
        if entry.seq >= start.seq:
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

    Each question is followed by its answer, even if further questions arrived before the answer. Replaced answers and
    rephrased questions are omitted. Empty if the history does not contain `message`.
    """
    return _newest(_exchanges(history, message), max_characters)


def suffices(history: Sequence[bytes], queued: Queued, max_characters: int) -> bool:
    """Tell whether a prompt is the same from these newest entries as from the whole history."""
    if queued.mode == "continue" and queued.replaces is not None and not settled_text(history, queued.replaces):
        return False
    exchanges = _exchanges(history, queued.message)
    # The oldest exchange may lack its answer here, so it must be one that is left out.
    return len(_newest(exchanges, max_characters)) < sum(map(len, exchanges))


def _exchanges(history: Iterable[bytes], message: str) -> list[list[Message]]:
    """Return each question up to `message` with its answer, oldest first; see `messages`."""
    questions: dict[str, str] = {}
    answers: dict[str, str] = {}
    question_of: dict[str, str] = {}
    answer_of: dict[str, str] = {}
    for value in history:
        match log_entries.decode_history_entry(value):
            case UserMessage(id=name, text=text, replaces=replaces):
                if replaces is not None:
                    question = question_of.get(replaces)
                    # A question that is rephrased before its answer ends is still the one that is being answered.
                    if question is not None and question != message:
                        questions.pop(question, None)
                questions[name] = text
            case Opened() as opened:
                question_of[opened.response] = opened.message
                if opened.replaces is not None:
                    question = question_of.get(opened.replaces)
                    if question is not None and answer_of.get(question) == opened.replaces:
                        answers.pop(question, None)
            case Settled() as settled:
                question = question_of.get(settled.response)
                text = log_entries.unescape(bytes(settled.text)[1:-1])
                if question is None or not text:
                    continue
                answers[question] = text
                answer_of[question] = settled.response

    exchanges: list[list[Message]] = []
    for name, text in questions.items():
        exchange: list[Message] = [{"role": "user", "content": text}]
        if name == message:
            exchanges.append(exchange)
            break
        if name in answers:
            exchange.append({"role": "assistant", "content": answers[name]})
        exchanges.append(exchange)
    else:
        return []
    return exchanges


def _newest(exchanges: Sequence[Sequence[Message]], max_characters: int) -> list[Message]:
    kept: list[Message] = []
    remaining = max_characters
    for exchange in reversed(exchanges):
        remaining -= sum(len(each["content"]) for each in exchange)
        if kept and remaining < 0:
            break
        kept[:0] = exchange
    return kept
