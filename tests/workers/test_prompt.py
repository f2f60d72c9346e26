"""A history: the conversation as its people see it, from the newest turn back for as long as it fits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.streams import log_entries
from gateway.streams.log_entries import Opened, Settled, UserMessage
from workers import prompt

if TYPE_CHECKING:
    from workers.providers import Message

ROOMY = 1_000_000


def asks(message: str, text: str, replaces: str | None = None) -> bytes:
    return log_entries.encode(log_entries.MESSAGE, UserMessage(message, text, replaces))


def opens(response: str, message: str, replaces: str | None = None) -> bytes:
    return log_entries.encode(log_entries.OPENED, Opened(response, message, "default", replaces))


def settles(response: str, text: str, reason: str = "complete") -> bytes:
    escaped = msgspec.Raw(b'"%b"' % log_entries.escape(text))
    return log_entries.encode(log_entries.SETTLED, Settled(response, f"m-{response}", reason, escaped))


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def test_a_first_message_is_all_there_is() -> None:
    entries = [opens("r1", "m1"), asks("m1", "Why?")]
    assert prompt.messages(entries, "m1", ROOMY) == [user("Why?")]


def test_what_a_newer_release_writes_is_passed_over() -> None:
    assert prompt.messages([opens("r1", "m1"), b"?{}", asks("m1", "Why?")], "m1", ROOMY) == [user("Why?")]


def test_an_answer_without_text_is_not_told() -> None:
    entries = [opens("r1", "m1"), asks("m1", "Why?"), settles("r1", "", "failed"), opens("r2", "m2"), asks("m2", "So?")]
    assert prompt.messages(entries, "m2", ROOMY) == [user("Why?"), user("So?")]


def test_questions_and_answers_alternate() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "Why?"),
        settles("r1", 'Because "\n😀"'),
        opens("r2", "m2"),
        asks("m2", "And?"),
    ]
    assert prompt.messages(entries, "m2", ROOMY) == [user("Why?"), assistant('Because "\n😀"'), user("And?")]


def test_an_answer_follows_its_question_although_others_were_asked_before_it_came() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "One?"),
        opens("r2", "m2"),
        asks("m2", "Two?"),
        settles("r1", "1"),
    ]
    assert prompt.messages(entries, "m2", ROOMY) == [user("One?"), assistant("1"), user("Two?")]


def test_what_was_asked_later_is_not_told() -> None:
    entries = [opens("r1", "m1"), asks("m1", "One?"), opens("r2", "m2"), asks("m2", "Two?")]
    assert prompt.messages(entries, "m1", ROOMY) == [user("One?")]


def test_the_answer_that_is_asked_for_anew_is_not_told() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "One?"),
        settles("r1", "1"),
        opens("r2", "m2"),
        asks("m2", "Two?"),
        settles("r2", "2", "stopped"),
        opens("r3", "m2", replaces="r2"),
    ]
    assert prompt.messages(entries, "m2", ROOMY) == [user("One?"), assistant("1"), user("Two?")]


def test_of_answers_to_one_question_the_last_counts() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "One?"),
        settles("r1", "wrong"),
        opens("r2", "m1", replaces="r1"),
        settles("r2", "1"),
        opens("r3", "m2"),
        asks("m2", "Two?"),
    ]
    assert prompt.messages(entries, "m2", ROOMY) == [user("One?"), assistant("1"), user("Two?")]


def test_an_answer_that_was_replaced_is_gone_even_if_the_new_one_failed() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "One?"),
        settles("r1", "wrong"),
        opens("r2", "m1", replaces="r1"),
        settles("r2", "", "failed"),
        opens("r3", "m2"),
        asks("m2", "Two?"),
    ]
    assert prompt.messages(entries, "m2", ROOMY) == [user("One?"), user("Two?")]


def test_an_answer_that_was_not_the_shown_one_replaces_nothing() -> None:
    """Two tabs retry the same response: the second retry finds the first one's answer."""
    entries = [
        opens("r1", "m1"),
        asks("m1", "One?"),
        settles("r1", "wrong"),
        opens("r2", "m1", replaces="r1"),
        settles("r2", "1"),
        opens("r3", "m1", replaces="r1"),
        settles("r3", "", "stopped"),
        opens("r4", "m2"),
        asks("m2", "Two?"),
    ]
    assert prompt.messages(entries, "m2", ROOMY) == [user("One?"), assistant("1"), user("Two?")]


def test_a_question_in_other_words_takes_the_place_of_the_old_one_and_its_answer() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "Wyh?"),
        settles("r1", "What?"),
        opens("r2", "m2", replaces="r1"),
        asks("m2", "Why?", replaces="r1"),
    ]
    assert prompt.messages(entries, "m2", ROOMY) == [user("Why?")]


def test_a_question_that_was_put_in_other_words_too_early_is_still_the_one_that_is_answered() -> None:
    """Its worker died and another takes over, while the new question already waits."""
    entries = [
        opens("r1", "m1"),
        asks("m1", "Wyh?"),
        opens("r2", "m2", replaces="r1"),
        asks("m2", "Why?", replaces="r1"),
    ]
    assert prompt.messages(entries, "m1", ROOMY) == [user("Wyh?")]
    assert prompt.messages([*entries, settles("r1", "What?")], "m2", ROOMY) == [user("Why?")]


def test_entries_whose_beginning_was_trimmed_away_are_passed_over() -> None:
    entries = [
        settles("r0", "0"),
        opens("r1", "m0", replaces="r0"),
        opens("r2", "m2", replaces="r00"),
        asks("m2", "Two?", replaces="r00"),
    ]
    assert prompt.messages(entries, "m2", ROOMY) == [user("Two?")]


def test_a_question_that_was_trimmed_away_is_not_mistaken_for_another() -> None:
    entries = [opens("r2", "m2"), asks("m2", "Two?"), settles("r2", "2"), opens("r3", "m1", replaces="r1")]
    assert prompt.messages(entries, "m1", ROOMY) == []


def test_the_oldest_turns_give_way_whole() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "1234"),
        settles("r1", "5678"),
        opens("r2", "m2"),
        asks("m2", "abcd"),
        settles("r2", "efgh"),
        opens("r3", "m3"),
        asks("m3", "?"),
    ]
    last = [user("abcd"), assistant("efgh"), user("?")]
    assert prompt.messages(entries, "m3", 17) == [user("1234"), assistant("5678"), *last]
    assert prompt.messages(entries, "m3", 16) == last
    assert prompt.messages(entries, "m3", 9) == last
    assert prompt.messages(entries, "m3", 8) == [user("?")]


def test_the_question_itself_is_told_however_long_it_is() -> None:
    assert prompt.messages([opens("r1", "m1"), asks("m1", "x" * 100)], "m1", 10) == [user("x" * 100)]


@dataclass
class Turn:
    """A question as its people see it, with the answer that is shown under it."""

    message: str
    text: str
    answer: str = ""
    answered_by: str = ""
    gone: bool = False


@dataclass
class Conversation:
    """The model: a list of turns, and the log of what was done to them."""

    turns: list[Turn] = field(default_factory=list)
    log: list[bytes] = field(default_factory=list)
    turn_of: dict[str, Turn] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)

    def ask(self, text: str, again: str | None) -> None:
        turn = Turn(f"m{len(self.turns)}", text)
        if again is not None:
            self.turn_of[again].gone = True
        self.turns.append(turn)
        # As submit.lua writes them: the response, then the message that it answers.
        self.respond(turn, again)
        self.log.append(asks(turn.message, text, again))

    def respond(self, turn: Turn, replaces: str | None) -> None:
        response = f"r{len(self.turn_of)}"
        self.log.append(opens(response, turn.message, replaces))
        self.turn_of[response] = turn
        if replaces is not None:
            # What is replaced is no longer shown, under whichever question it stands.
            old = self.turn_of[replaces]
            if old.answered_by == replaces:
                old.answer, old.answered_by = "", ""
        self.open.append(response)

    def settle(self, text: str) -> None:
        response = self.open.pop(0)
        self.log.append(settles(response, text))
        if text:
            self.turn_of[response].answer, self.turn_of[response].answered_by = text, response

    def shown(self, asked: Turn) -> list[Message]:
        said: list[Message] = []
        for turn in self.turns[: self.turns.index(asked) + 1]:
            if turn is asked:
                said.append(user(turn.text))
            elif not turn.gone:
                said += [user(turn.text), assistant(turn.answer)] if turn.answer else [user(turn.text)]
        return said


DEEDS = st.tuples(st.sampled_from(["ask", "ask", "ask again", "retry", "settle", "settle"]), st.text(max_size=3))


@given(st.lists(DEEDS, max_size=20), st.data())
def test_a_provider_is_told_what_the_people_see(deeds: list[tuple[str, str]], data: st.DataObject) -> None:
    conversation = Conversation()
    conversation.ask("first", None)
    for deed, text in deeds:
        ended = [response for response in conversation.turn_of if response not in conversation.open]
        if deed == "ask":
            conversation.ask(text or "?", None)
        elif deed == "settle" and conversation.open:
            conversation.settle(text)
        elif deed == "ask again":
            # Also of a response that is still open: nothing forbids that.
            conversation.ask(text or "?", data.draw(st.sampled_from(list(conversation.turn_of))))
        elif deed == "retry" and ended:
            response = data.draw(st.sampled_from(ended))
            conversation.respond(conversation.turn_of[response], response)
    for response in conversation.open:
        turn = conversation.turn_of[response]
        shown = conversation.shown(turn)
        assert prompt.messages(conversation.log, turn.message, ROOMY) == shown
        most = data.draw(st.integers(0, 40))
        told = prompt.messages(conversation.log, turn.message, most)
        assert told[-1] == user(turn.text)
        assert told == shown[len(shown) - len(told) :]
        assert len(told) == 1 or sum(len(said["content"]) for said in told) <= most
