"""Prompt building: messages as users see them, the newest that fit, and continuations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.streams import log_entries
from gateway.streams.log_entries import Opened, Queued, Settled, UserMessage
from workers import prompt
from workers.prompt import History
from workers.providers import Request
from workers.providers.blank import is_blank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workers.providers import Message

NO_LIMIT = 1_000_000


def asks(message: str, text: str, replaces: str | None = None) -> bytes:
    return log_entries.encode(log_entries.MESSAGE, UserMessage(message, text, replaces))


def opens(response: str, message: str, replaces: str | None = None) -> bytes:
    return log_entries.encode(log_entries.OPENED, Opened(response, message, "default", replaces))


def settles(response: str, text: str, reason: str = "complete") -> bytes:
    escaped = msgspec.Raw(b'"%b"' % log_entries.escape(text))
    return log_entries.encode(log_entries.SETTLED, Settled(response, f"m-{response}", reason, escaped))


def messages(entries: Sequence[bytes], message: str, max_characters: int) -> list[Message]:
    history = History(Queued("c", message, "default"), max_characters)
    history.add_older(entries)
    return history.messages()


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def test_first_message_is_the_whole_prompt() -> None:
    entries = [opens("r1", "m1"), asks("m1", "Why?")]
    assert messages(entries, "m1", NO_LIMIT) == [user("Why?")]


def test_entries_of_newer_releases_are_skipped() -> None:
    assert messages([opens("r1", "m1"), b"?{}", asks("m1", "Why?")], "m1", NO_LIMIT) == [user("Why?")]


def test_answer_without_text_is_omitted() -> None:
    entries = [opens("r1", "m1"), asks("m1", "Why?"), settles("r1", "", "failed"), opens("r2", "m2"), asks("m2", "So?")]
    assert messages(entries, "m2", NO_LIMIT) == [user("Why?\n\nSo?")]


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
    assert messages(entries, "m3", NO_LIMIT) == [user("Why?\n\nSo?")]
    assert messages(entries, "m2", NO_LIMIT) == [user("Why?\n\n ")]


def test_questions_and_answers_alternate() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "Why?"),
        settles("r1", 'Because "\n😀"'),
        opens("r2", "m2"),
        asks("m2", "And?"),
    ]
    assert messages(entries, "m2", NO_LIMIT) == [user("Why?"), assistant('Because "\n😀"'), user("And?")]


def test_answer_follows_its_question_despite_later_questions() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "One?"),
        opens("r2", "m2"),
        asks("m2", "Two?"),
        settles("r1", "1"),
    ]
    assert messages(entries, "m2", NO_LIMIT) == [user("One?"), assistant("1"), user("Two?")]


def test_later_questions_are_omitted() -> None:
    entries = [opens("r1", "m1"), asks("m1", "One?"), opens("r2", "m2"), asks("m2", "Two?")]
    assert messages(entries, "m1", NO_LIMIT) == [user("One?")]


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
    assert messages(entries, "m2", NO_LIMIT) == [user("One?"), assistant("1"), user("Two?")]


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
    assert messages(entries, "m2", NO_LIMIT) == [user("One?"), assistant("1"), user("Two?")]


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
    assert messages(entries, "m2", NO_LIMIT) == [user("One?\n\nTwo?")]


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
    assert messages(entries, "m2", NO_LIMIT) == [user("One?"), assistant("1"), user("Two?")]


def test_rephrased_question_replaces_question_and_answer() -> None:
    entries = [
        opens("r1", "m1"),
        asks("m1", "Wyh?"),
        settles("r1", "What?"),
        opens("r2", "m2", replaces="r1"),
        asks("m2", "Why?", replaces="r1"),
    ]
    assert messages(entries, "m2", NO_LIMIT) == [user("Why?")]


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
    assert messages(entries, "m3", NO_LIMIT) == [user("Why?")]
    entries += [settles("r3", "Because"), opens("r4", "m4"), asks("m4", "So?")]
    shown = [user("Why?"), assistant("Because"), user("And?"), assistant("Later."), user("So?")]
    assert messages(entries, "m4", NO_LIMIT) == shown
    entries += [opens("r5", "m5", replaces="r3"), asks("m5", "Why indeed?", replaces="r3")]
    assert messages(entries, "m5", NO_LIMIT) == [user("Why indeed?")]


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
    assert messages(entries, "m2", NO_LIMIT) == [user("Why?")]
    assert messages(entries, "m3", NO_LIMIT) == [user("Why not?")]


def test_question_rephrased_before_its_end_is_still_answered() -> None:
    """Its worker died and another one takes over while the rephrased question waits."""
    entries = [
        opens("r1", "m1"),
        asks("m1", "Wyh?"),
        opens("r2", "m2", replaces="r1"),
        asks("m2", "Why?", replaces="r1"),
    ]
    assert messages(entries, "m1", NO_LIMIT) == [user("Wyh?")]
    assert messages([*entries, settles("r1", "What?")], "m2", NO_LIMIT) == [user("Why?")]


def test_entries_of_trimmed_questions_are_skipped() -> None:
    entries = [
        settles("r0", "0"),
        opens("r1", "m0", replaces="r0"),
        opens("r2", "m2", replaces="r00"),
        asks("m2", "Two?", replaces="r00"),
    ]
    assert messages(entries, "m2", NO_LIMIT) == [user("Two?")]


def test_trimmed_question_gives_no_messages() -> None:
    entries = [opens("r2", "m2"), asks("m2", "Two?"), settles("r2", "2"), opens("r3", "m1", replaces="r1")]
    assert messages(entries, "m1", NO_LIMIT) == []


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
    assert messages(entries, "m3", 17) == [user("1234"), assistant("5678"), *last]
    assert messages(entries, "m3", 16) == last
    assert messages(entries, "m3", 9) == last
    assert messages(entries, "m3", 8) == [user("?")]


def test_question_itself_is_never_dropped() -> None:
    assert messages([opens("r1", "m1"), asks("m1", "x" * 100)], "m1", 10) == [user("x" * 100)]


QUEUED = Queued(conversation="c1", message="m1", model="default", max_tokens=9)
HISTORY = [opens("r1", "m1"), asks("m1", "Why?")]


def request_of(entries: Sequence[bytes], queued: Queued = QUEUED) -> Request | None:
    history = History(queued, NO_LIMIT)
    history.add_older(entries)
    return history.request("model-1", "Be brief.", response="r1")


def test_request_contains_model_instructions_and_limits() -> None:
    assert request_of(HISTORY) == Request(
        model="model-1",
        messages=[user("Why?")],
        instructions="Be brief.",
        max_tokens=9,
        conversation="c1",
        response="r1",
    )


def test_request_to_continue_ends_with_text_and_instruction() -> None:
    request = request_of(HISTORY)
    assert request is not None
    continued = prompt.continued(request, "Beca ", prefill=False, max_characters=NO_LIMIT)
    assert continued.messages == [user("Why?"), assistant("Beca "), user(prompt.CONTINUE_INSTRUCTION)]
    # Providers refuse a prefilled answer that ends with white space.
    prefilled = prompt.continued(request, "Beca ", prefill=True, max_characters=NO_LIMIT)
    assert prefilled.messages == [user("Why?"), assistant("Beca")]
    assert request.messages == [user("Why?")]


@pytest.mark.parametrize("prefill", [True, False])
def test_request_after_blank_text_is_the_same(*, prefill: bool) -> None:
    request = request_of(HISTORY)
    assert request is not None
    assert prompt.continued(request, "\n\n", prefill=prefill, max_characters=NO_LIMIT) == request


def size_of(request: Request) -> int:
    return sum(len(message["content"]) for message in request.messages)


@pytest.mark.parametrize("prefill", [True, False])
@pytest.mark.parametrize("length", [1, 599, 999, 1_000_000])
def test_request_to_continue_has_the_characters_of_the_context(*, prefill: bool, length: int) -> None:
    """Found by a hostile client: 950,186 characters were sent where 100,000 were allowed."""
    messages = [user("a" * 100), assistant("b" * 100), user("c" * 200), assistant("d" * 200), user("Why?")]
    request = Request("model-1", messages, None, None, "c1", "r1")
    partial = "".join(chr(0x4E00 + number % 1000) for number in range(length))
    continued = prompt.continued(request, partial, prefill=prefill, max_characters=1000)
    shown, *rest = continued.messages[-1 if prefill else -2 :]
    assert partial.endswith(shown["content"])
    assert size_of(continued) <= 1000
    assert rest == ([] if prefill else [user(prompt.CONTINUE_INSTRUCTION)])
    # Whatever was left out does not fit: exchanges as a whole, the oldest first, and then the beginning of the text.
    kept = len(continued.messages) - len(rest) - 2
    assert continued.messages[: kept + 1] == messages[len(messages) - kept - 1 :]
    if kept < len(messages) - 1:
        left_out = messages[len(messages) - kept - 3 : len(messages) - kept - 1]
        assert size_of(continued) + sum(len(message["content"]) for message in left_out) > 1000
    assert len(shown["content"]) == length or size_of(continued) == 1000


def test_question_that_fills_the_context_leaves_a_quarter_for_the_text() -> None:
    request = Request("model-1", [user("q" * 2000)], None, None, "c1", "r1")
    continued = prompt.continued(request, "x" * 1000, prefill=True, max_characters=1000)
    assert continued.messages == [user("q" * 2000), assistant("x" * 250)]
    continued = prompt.continued(request, "xyz", prefill=True, max_characters=3)
    assert continued.messages == [user("q" * 2000), assistant("z")]


def test_request_for_a_trimmed_message_is_none() -> None:
    assert request_of([]) is None


def continuing(replaces: str, message: str = "m1") -> Queued:
    return Queued("c", message, "default", replaces=replaces, mode="continue")


def test_partial_text_is_that_of_the_replaced_response() -> None:
    entries = [*HISTORY, settles("r1", 'Because "', "stopped"), settles("r2", "Other")]
    history = History(continuing("r1"), NO_LIMIT)
    history.add_older(entries[-1:])
    assert history.partial == ""
    history.add_older(entries[:-1])
    assert history.partial == 'Because "'
    history = History(continuing("r3"), NO_LIMIT)
    history.add_older(entries)
    assert history.partial == ""
    history = History(Queued("c", "m1", "default", replaces="r1"), NO_LIMIT)
    history.add_older(entries)
    assert history.partial == ""


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
        if not is_blank(text):
            self.exchange_of[response].answer, self.exchange_of[response].answered_by = text, response

    def shown(self, asked: Exchange) -> list[Exchange]:
        """Return the exchanges of the page up to the one that is answered, which may have been replaced meanwhile."""
        place = asked
        while place.replaced_by is not None:
            place = place.replaced_by
        before = self.exchanges[: self.exchanges.index(place)]
        return [*(each for each in before if not is_blank(each.text)), Exchange(asked.message, asked.text)]


def alternating(exchanges: list[Exchange]) -> list[Message]:
    messages: list[Message] = []
    for exchange in exchanges:
        if messages and messages[-1]["role"] == "user":
            messages[-1] = user(f"{messages[-1]['content']}\n\n{exchange.text}")
        else:
            messages.append(user(exchange.text))
        if not is_blank(exchange.answer):
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
        assert messages(conversation.log, exchange.message, NO_LIMIT) == alternating(shown)
        max_characters = data.draw(st.integers(0, 40))
        sizes = [len(each.text) + len(each.answer) for each in shown]
        count = max(n for n in range(1, len(shown) + 1) if n == 1 or sum(sizes[-n:]) <= max_characters)
        kept = messages(conversation.log, exchange.message, max_characters)
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
    whole, newest = History(queued, max_characters), History(queued, max_characters)
    whole.add_older(entries)
    for end in range(len(entries), 0, -count):
        newest.add_older(entries[max(0, end - count) : end])
        if newest.suffices():
            assert newest.messages() == whole.messages()
            assert newest.partial == whole.partial


def exchanges(numbers: Sequence[int], text: str = "Why?") -> list[bytes]:
    return [entry for number in numbers for entry in (opens(f"r{number}", f"m{number}"), asks(f"m{number}", text))]


def suffices(entries: Sequence[bytes], queued: Queued, max_characters: int) -> bool:
    history = History(queued, max_characters)
    history.add_older(entries)
    return history.suffices()


def test_entries_suffice_once_an_exchange_is_left_out() -> None:
    entries = exchanges(range(9))
    queued = Queued("c", "m8", "default")
    assert not suffices(entries[-4:], queued, 8)
    assert suffices(entries[-6:], queued, 8)
    assert not suffices(entries[:-2], queued, 8)
    assert not suffices(entries[-6:], continuing("r3", "m8"), 8)
    assert suffices([*entries[-6:], settles("r3", "B")], continuing("r3", "m8"), 8)


def test_answer_without_text_is_not_searched_for() -> None:
    """Found by a hostile client: a retry of an empty answer read 32 MB."""
    entries = exchanges(range(9))
    assert suffices(entries[-6:], continuing("r8", "m8"), 8), "its opening is there, so its text would follow"
    assert suffices([*entries[-6:], settles("r3", "")], continuing("r3", "m8"), 8)


def test_long_history_is_decoded_once_and_arranged_for_a_multiple_of_its_entries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by a hostile client: 32 MB were decoded again after each piece, for 12 s."""
    decoded = arranged = 0
    decode, ask = log_entries.decode_history_entry, prompt._Page.ask

    def counted(value: bytes, log: str = "") -> log_entries.HistoryEntry | None:
        nonlocal decoded
        decoded += 1
        return decode(value, log)

    def counted_ask(page: prompt._Page, asked: UserMessage) -> None:
        nonlocal arranged
        arranged += 1
        ask(page, asked)

    monkeypatch.setattr(log_entries, "decode_history_entry", counted)
    monkeypatch.setattr(prompt._Page, "ask", counted_ask)
    count = 2000
    # The message rephrases one that no longer is in the history.
    history = History(Queued("c", "m", "default", replaces="r"), 1000)
    history.add_older([opens("r0", "m", "r"), asks("m", "Why?", "r")])
    for number in range(count):
        history.add_older([asks(f"m{number}", "q" * 1000)])
        assert not history.suffices()
    assert decoded == count + 2
    # Each check arranges half as many again as the one before it; in a short history each of about four messages.
    assert arranged <= 4 * count
    assert history.is_long


def test_size_is_the_memory_of_the_texts() -> None:
    history = History(QUEUED, 100)
    history.add_older([asks("m1", "x" * 100), b"?"])
    assert 100 < history.size < 250
    assert not history.is_long
    before = history.size
    history.add_older([settles("r1", "x" * 99 + "😀")])
    assert 400 < history.size - before < 550
    assert history.is_long
