"""What a provider is told of a conversation: its messages in the order of the turns, the newest that fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.streams import log_entries
from gateway.streams.log_entries import Opened, Settled, UserMessage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workers.providers import Message


def messages(entries: Iterable[bytes], message: str, most: int) -> list[Message]:
    """The messages up to `message`, which is the last, in at most about `most` characters.

    `entries` are those of the conversation's log. Each question is followed by its answer, although the log may have
    taken further questions before that. Answers that were replaced are left out, and so is a question that was asked
    again in other words. Where the log no longer holds `message`, there is nothing to answer, and no messages.
    """
    asked: dict[str, str] = {}
    answers: dict[str, str] = {}
    question_of: dict[str, str] = {}
    answer_of: dict[str, str] = {}
    for value in entries:
        match log_entries.decode_history_entry(value):
            case UserMessage(id=name, text=text, replaces=replaces):
                if replaces is not None:
                    question = question_of.get(replaces)
                    # Asked again while its first answer is still to come, a question stays the one that is answered.
                    if question is not None and question != message:
                        asked.pop(question, None)
                asked[name] = text
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

    turns: list[list[Message]] = []
    for name, text in asked.items():
        turn: list[Message] = [{"role": "user", "content": text}]
        if name == message:
            turns.append(turn)
            break
        if name in answers:
            turn.append({"role": "assistant", "content": answers[name]})
        turns.append(turn)
    else:
        return []

    kept: list[Message] = []
    room = most
    for turn in reversed(turns):
        room -= sum(len(said["content"]) for said in turn)
        if kept and room < 0:
            break
        kept[:0] = turn
    return kept
