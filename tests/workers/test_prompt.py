"""Prompt building: messages as users see them, the newest that fit, and continuations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.streams import log_entries
from gateway.streams.log_entries import LogId, Opened, Queued, Settled, UserMessage
from workers import prompt
from workers.providers import Request

if TYPE_CHECKING:
    from workers.providers import Message

NO_LIMIT = 1_000_000


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


def test_first_message_is_the_whole_prompt() -> None:
    entries = [opens("r1", "m1"), asks("m1", "Why?")]
    assert prompt.messages(entries, "m1", NO_LIMIT) == [user("Why?")]


def test_entries_of_newer_releases_are_skipped() -> None:
    assert prompt.messages([opens("r1", "m1"), b"?{}", asks("m1", "Why?")], "m1", NO_LIMIT) == [user("Why?")]


def test_answer_without_text_is_omitted() -> None:
    entries = [opens("r1", "m1"), asks("m1", "Why?"), settles("r1", "", "failed"), opens("r2", "m2"), asks("m2", "So?")]
    assert prompt.messages(entries, "m2", NO_LIMIT) == [user("Why?\n\nSo?")]


def test_blank_messages_are_omitted() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "Why?"),
        settles("r1", " \n", "stopped"),
        opens("r2", "m2"),
        asks("m2", " "),
        settles("r2", "What?"),
        opens("r3", "m3"),
        asks("m3", "So?"),
    ]
    assert prompt.messages(entries, "m3", NO_LIMIT) == [user("Why?\n\nSo?")]
    assert prompt.messages(entries, "m2", NO_LIMIT) == [user("Why?\n\n ")]


def test_questions_and_answers_alternate() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "Why?"),
        settles("r1", 'Because "\n😀"'),
        opens("r2", "m2"),
        asks("m2", "And?"),
    ]
    assert prompt.messages(entries, "m2", NO_LIMIT) == [user("Why?"), assistant('Because "\n😀"'), user("And?")]


def test_answer_follows_its_question_despite_later_questions() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "One?"),
        opens("r2", "m2"),
        asks("m2", "Two?"),
        settles("r1", "1"),
    ]
    assert prompt.messages(entries, "m2", NO_LIMIT) == [user("One?"), assistant("1"), user("Two?")]


def test_later_questions_are_omitted() -> None:
    entries = [opens("r1", "m1"), asks("m1", "One?"), opens("r2", "m2"), asks("m2", "Two?")]
    assert prompt.messages(entries, "m1", NO_LIMIT) == [user("One?")]


def test_answer_that_is_retried_is_omitted() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "One?"),
        settles("r1", "1"),
        opens("r2", "m2"),
        asks("m2", "Two?"),
        settles("r2", "2", "stopped"),
        opens("r3", "m2", replaces="r2"),
    ]
    assert prompt.messages(entries, "m2", NO_LIMIT) == [user("One?"), assistant("1"), user("Two?")]


def test_last_answer_to_a_question_counts() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "One?"),
        settles("r1", "wrong"),
        opens("r2", "m1", replaces="r1"),
        settles("r2", "1"),
        opens("r3", "m2"),
        asks("m2", "Two?"),
    ]
    assert prompt.messages(entries, "m2", NO_LIMIT) == [user("One?"), assistant("1"), user("Two?")]


def test_replaced_answer_is_omitted_even_if_the_retry_failed() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "One?"),
        settles("r1", "wrong"),
        opens("r2", "m1", replaces="r1"),
        settles("r2", "", "failed"),
        opens("r3", "m2"),
        asks("m2", "Two?"),
    ]
    assert prompt.messages(entries, "m2", NO_LIMIT) == [user("One?\n\nTwo?")]


def test_retry_of_a_replaced_answer_replaces_nothing() -> None:
    """Two tabs retry the same response: the second retry finds the answer of the first one."""
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
    assert prompt.messages(entries, "m2", NO_LIMIT) == [user("One?"), assistant("1"), user("Two?")]


def test_rephrased_question_replaces_question_and_answer() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "Wyh?"),
        settles("r1", "What?"),
        opens("r2", "m2", replaces="r1"),
        asks("m2", "Why?", replaces="r1"),
    ]
    assert prompt.messages(entries, "m2", NO_LIMIT) == [user("Why?")]


def test_rephrased_question_keeps_its_place() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "Wyh?"),
        settles("r1", "What?"),
        opens("r2", "m2"),
        asks("m2", "And?"),
        settles("r2", "Later."),
        opens("r3", "m3", replaces="r1"),
        asks("m3", "Why?", replaces="r1"),
    ]
    assert prompt.messages(entries, "m3", NO_LIMIT) == [user("Why?")]
    entries += [settles("r3", "Because"), opens("r4", "m4"), asks("m4", "So?")]
    shown = [user("Why?"), assistant("Because"), user("And?"), assistant("Later."), user("So?")]
    assert prompt.messages(entries, "m4", NO_LIMIT) == shown
    entries += [opens("r5", "m5", replaces="r3"), asks("m5", "Why indeed?", replaces="r3")]
    assert prompt.messages(entries, "m5", NO_LIMIT) == [user("Why indeed?")]


def test_first_wording_that_is_rephrased_again_leaves_what_is_answered() -> None:
    """The worker of m2 takes over after m3 has replaced the first wording too."""
    entries = [
        opens("r1", "m1"),
        asks("m1", "Wyh?"),
        opens("r2", "m2", replaces="r1"),
        asks("m2", "Why?", replaces="r1"),
        opens("r3", "m3", replaces="r1"),
        asks("m3", "Why not?", replaces="r1"),
    ]
    assert prompt.messages(entries, "m2", NO_LIMIT) == [user("Why?")]
    assert prompt.messages(entries, "m3", NO_LIMIT) == [user("Why not?")]


def test_question_rephrased_before_its_end_is_still_answered() -> None:
    """Its worker died and another one takes over while the rephrased question waits."""
    entries = [
        opens("r1", "m1"),
        asks("m1", "Wyh?"),
        opens("r2", "m2", replaces="r1"),
        asks("m2", "Why?", replaces="r1"),
    ]
    assert prompt.messages(entries, "m1", NO_LIMIT) == [user("Wyh?")]
    assert prompt.messages([*entries, settles("r1", "What?")], "m2", NO_LIMIT) == [user("Why?")]


def test_entries_of_trimmed_questions_are_skipped() -> None:
    entries = [
        settles("r0", "0"),
        opens("r1", "m0", replaces="r0"),
        opens("r2", "m2", replaces="r00"),
        asks("m2", "Two?", replaces="r00"),
    ]
    assert prompt.messages(entries, "m2", NO_LIMIT) == [user("Two?")]


def test_trimmed_question_gives_no_messages() -> None:
    entries = [opens("r2", "m2"), asks("m2", "Two?"), settles("r2", "2"), opens("r3", "m1", replaces="r1")]
    assert prompt.messages(entries, "m1", NO_LIMIT) == []


def test_oldest_exchanges_are_dropped_as_a_whole() -> None:
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


def test_question_itself_is_never_dropped() -> None:
    assert prompt.messages([opens("r1", "m1"), asks("m1", "x" * 100)], "m1", 10) == [user("x" * 100)]


QUEUED = Queued(conversation="c1", message="m1", model="default", instructions="Be brief.", max_tokens=9)
HISTORY = [opens("r1", "m1"), asks("m1", "Why?")]


def test_request_contains_model_instructions_and_limits() -> None:
    request = prompt.request(QUEUED, "model-1", HISTORY, response="r1", max_characters=NO_LIMIT)
    assert request == Request(
        model="model-1",
        messages=[user("Why?")],
        instructions="Be brief.",
        max_tokens=9,
        conversation="c1",
        response="r1",
    )


def test_request_to_continue_ends_with_text_and_instruction() -> None:
    request = prompt.request(QUEUED, "model-1", HISTORY, response="r1", max_characters=NO_LIMIT)
    assert request is not None
    continued = prompt.continued(request, "Beca ", prefill=False)
    assert continued.messages == [user("Why?"), assistant("Beca "), user(prompt.CONTINUE_INSTRUCTION)]
    # Providers refuse a prefilled answer that ends with white space.
    assert prompt.continued(request, "Beca ", prefill=True).messages == [user("Why?"), assistant("Beca")]
    assert request.messages == [user("Why?")]


@pytest.mark.parametrize("prefill", [True, False])
def test_request_after_blank_text_is_the_same(*, prefill: bool) -> None:
    request = prompt.request(QUEUED, "model-1", HISTORY, response="r1", max_characters=NO_LIMIT)
    assert request is not None
    assert prompt.continued(request, "\n\n", prefill=prefill) == request


def test_request_for_a_trimmed_message_is_none() -> None:
    assert prompt.request(QUEUED, "model-1", [], response="r1", max_characters=NO_LIMIT) is None


def test_text_before_an_attempt_begins_at_the_last_start() -> None:
    values = [b"Q{}", b"S{}", b"Tlost", b"S{}", b"TBe", b"Rhm", b'Tc\\"', b"K{}", b"Tnot before"]
    entries = [(LogId(1, seq), value) for seq, value in enumerate(values, 1)]
    assert prompt.text_before(entries, LogId(1, 8)) == 'Bec"'
    assert prompt.text_before(entries[:5], LogId(1, 8)) == "Be"
    assert prompt.text_before([], LogId(1, 8)) == ""
    assert prompt.text_before(entries, None) == prompt.text_before(entries, LogId(9, 99))


def test_settled_text_is_that_of_the_response() -> None:
    history = [*HISTORY, settles("r1", 'Because "', "stopped"), settles("r2", "Other")]
    assert prompt.settled_text(history, "r1") == 'Because "'
    assert prompt.settled_text(history, "r3") == ""


@dataclass
class Exchange:
    """A question as users see it, with the answer below it."""

    message: str
    text: str
    answer: str = ""
    answered_by: str = ""
    replaced_by: Exchange | None = None


@dataclass
class Conversation:
    """The model: a list of exchanges, and the history entries of the actions."""

    exchanges: list[Exchange] = field(default_factory=list)
    log: list[bytes] = field(default_factory=list)
    exchange_of: dict[str, Exchange] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)

    asked: int = 0

    def ask(self, text: str, again: str | None) -> None:
        exchange = Exchange(f"m{self.asked}", text)
        self.asked += 1
        if again is None:
            self.exchanges.append(exchange)
        else:
            # What was asked in other words is no longer shown; the last wording has its place.
            old = self.exchange_of[again]
            while old.replaced_by is not None:
                old = old.replaced_by
            old.replaced_by = exchange
            self.exchanges[self.exchanges.index(old)] = exchange
        # In the order of submit.lua: the response, then the message.
        self.respond(exchange, again)
        self.log.append(asks(exchange.message, text, again))

    def respond(self, exchange: Exchange, replaces: str | None) -> None:
        response = f"r{len(self.exchange_of)}"
        self.log.append(opens(response, exchange.message, replaces))
        self.exchange_of[response] = exchange
        if replaces is not None:
            # A replaced answer is no longer shown, under any question.
            old = self.exchange_of[replaces]
            if old.answered_by == replaces:
                old.answer, old.answered_by = "", ""
        self.open.append(response)

    def settle(self, text: str) -> None:
        response = self.open.pop(0)
        self.log.append(settles(response, text))
        if text.strip():
            self.exchange_of[response].answer, self.exchange_of[response].answered_by = text, response

    def shown(self, asked: Exchange) -> list[Exchange]:
        """Return the exchanges of the page up to the one that is answered, which may have been replaced meanwhile."""
        place = asked
        while place.replaced_by is not None:
            place = place.replaced_by
        before = self.exchanges[: self.exchanges.index(place)]
        return [*(each for each in before if each.text.strip()), Exchange(asked.message, asked.text)]


def alternating(exchanges: list[Exchange]) -> list[Message]:
    messages: list[Message] = []
    for exchange in exchanges:
        if messages and messages[-1]["role"] == "user":
            messages[-1] = user(f"{messages[-1]['content']}\n\n{exchange.text}")
        else:
            messages.append(user(exchange.text))
        if exchange.answer.strip():
            messages.append(assistant(exchange.answer))
    return messages


ACTIONS = st.tuples(st.sampled_from(["ask", "ask", "ask again", "retry", "settle", "settle"]), st.text(max_size=3))


@given(st.lists(ACTIONS, max_size=20), st.data())
def test_messages_equal_what_users_see(actions: list[tuple[str, str]], data: st.DataObject) -> None:
    conversation = Conversation()
    conversation.ask("first", None)
    for action, text in actions:
        ended = [response for response in conversation.exchange_of if response not in conversation.open]
        if action == "ask":
            conversation.ask(text or "?", None)
        elif action == "settle" and conversation.open:
            conversation.settle(text)
        elif action == "ask again":
            # Also for a response that is still open, which is allowed.
            conversation.ask(text or "?", data.draw(st.sampled_from(list(conversation.exchange_of))))
        elif action == "retry" and ended:
            response = data.draw(st.sampled_from(ended))
            conversation.respond(conversation.exchange_of[response], response)
    for response in conversation.open:
        exchange = conversation.exchange_of[response]
        shown = conversation.shown(exchange)
        assert prompt.messages(conversation.log, exchange.message, NO_LIMIT) == alternating(shown)
        max_characters = data.draw(st.integers(0, 40))
        sizes = [len(each.text) + len(each.answer) for each in shown]
        count = max(n for n in range(1, len(shown) + 1) if n == 1 or sum(sizes[-n:]) <= max_characters)
        kept = prompt.messages(conversation.log, exchange.message, max_characters)
        assert kept == alternating(shown[len(shown) - count :])


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "settle", "retry", "rephrase"]), st.integers(0, 30), st.integers(0, 40)),
    max_size=40,
)


def history_of(steps: list[tuple[str, int, int]]) -> tuple[list[bytes], list[str], list[str]]:
    """Return the entries, messages and responses of a conversation in which these things happened."""
    entries: list[bytes] = []
    messages: list[str] = []
    responses: list[tuple[str, str]] = []
    for number, (step, choice, length) in enumerate(steps):
        response, message = f"r{number}", f"m{number}"
        other = responses[choice % len(responses)] if responses else None
        if step == "settle" and other is not None:
            entries.append(settles(other[0], "a" * length))
        elif step == "retry" and other is not None:
            entries.append(opens(response, other[1], other[0]))
            responses.append((response, other[1]))
        else:
            replaces = other[0] if step == "rephrase" and other is not None else None
            entries += [opens(response, message, replaces), asks(message, "q" * length, replaces)]
            messages.append(message)
            responses.append((response, message))
    return entries, messages, [response for response, _ in responses]


@given(STEPS, st.integers(0, 100), st.integers(1, 60), st.data())
def test_entries_that_suffice_give_the_prompt_of_the_whole_history(
    steps: list[tuple[str, int, int]], max_characters: int, count: int, data: st.DataObject
) -> None:
    entries, messages, responses = history_of([("ask", 0, 3), *steps])
    message = data.draw(st.sampled_from(messages))
    replaces = data.draw(st.none() | st.sampled_from(responses))
    queued = Queued("c", message, "default", replaces=replaces, mode="continue" if replaces else "restart")
    newest = entries[-count:]
    if prompt.suffices(newest, queued, max_characters):
        assert prompt.messages(newest, message, max_characters) == prompt.messages(entries, message, max_characters)
        if replaces is not None:
            assert prompt.settled_text(newest, replaces) == prompt.settled_text(entries, replaces)


def test_entries_suffice_once_an_exchange_is_left_out() -> None:
    entries = [
        entry for number in range(9) for entry in (opens(f"r{number}", f"m{number}"), asks(f"m{number}", "Why?"))
    ]
    queued = Queued("c", "m8", "default")
    assert not prompt.suffices(entries[-4:], queued, 8)
    assert prompt.suffices(entries[-6:], queued, 8)
    assert not prompt.suffices(entries[:-2], queued, 8)
    continued = Queued("c", "m8", "default", replaces="r8", mode="continue")
    assert not prompt.suffices(entries[-6:], continued, 8)
    assert prompt.suffices([*entries[-6:], settles("r8", "B")], continued, 8)
