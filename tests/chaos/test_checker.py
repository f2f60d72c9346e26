"""The checker finds what it is there to find, and nothing in what a server may do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos import words
from tests.chaos.checker import Checker, Frame, Kind, Question, Truth, Watcher

CONVERSATION, RESPONSE, KEY, WORDS = "c1", "r1", "k1", "8.abc"
TEXT = words.whole(WORDS, 0)
USER = {"id": "m1", "role": "user", "text": WORDS}
ANSWER = {"id": "m2", "role": "assistant", "response": RESPONSE, "reason": "complete", "text": TEXT}


def delta(cursor: str, text: str) -> Frame:
    return {"type": "delta", "response": RESPONSE, "cursor": cursor, "text": text}


def reset(cursor: str, text: str) -> Frame:
    return {"type": "reset", "response": RESPONSE, "cursor": cursor, "text": text, "reason": "attempt"}


def end(text: str = TEXT, **fields: Any) -> Frame:
    return {"type": "end", "response": RESPONSE, "cursor": "1-99", "reason": "complete", "chars": len(text), **fields}


def message(said: dict[str, Any], cursor: str) -> Frame:
    return {"type": "message", "conversation": CONVERSATION, "cursor": cursor, "message": said}


OPENING: list[Frame] = [
    {"type": "watching", "conversation": CONVERSATION, "cursor": "0-0", "resumed": False},
    {"type": "snapshot", "conversation": CONVERSATION, "cursor": "0-0", "messages": [], "responses": []},
    message(USER, "2-1"),
    {"type": "status", "response": RESPONSE, "cursor": "0-1", "state": "queued"},
    {"type": "start", "response": RESPONSE, "cursor": "1-2", "model": "m", "attempt": 1},
]
PIECES = [delta(f"1-{3 + number}", piece) for number, piece in enumerate(words.pieces(WORDS, 0))]
CLOSING: list[Frame] = [end(), message(ANSWER, "3-1")]
GOOD = [*OPENING, *PIECES, *CLOSING]


def truth(**changes: Any) -> Truth:
    fields: dict[str, Any] = {
        "questions": [Question(CONVERSATION, KEY, WORDS, frozenset({"complete"}), calls=1)],
        "answers": {"v": {KEY: RESPONSE}},
        "refused": {},
        "histories": {CONVERSATION: [USER, ANSWER]},
        "logs": {RESPONSE: TEXT},
        "sent": {WORDS: [8]},
        **changes,
    }
    return Truth(**fields)


def verdicts(frames: list[Frame], **changes: Any) -> set[Kind]:
    checker = Checker()
    watcher = checker.watcher("v", CONVERSATION)
    for frame in frames:
        watcher.take(frame)
    return {verdict.kind for verdict in checker.finish(truth(**changes))}


def without(frames: list[Frame], number: int) -> list[Frame]:
    return frames[:number] + frames[number + 1 :]


def test_it_finds_nothing_in_a_good_run() -> None:
    assert verdicts(GOOD) == set()


@given(st.integers(1, len(PIECES) - 1))
def test_a_delta_that_never_came_is_lost(number: int) -> None:
    assert verdicts([*OPENING, *without(PIECES, number - 1), *CLOSING]) >= {"lost", "chars"}


@given(st.integers(0, len(PIECES) - 1))
def test_a_delta_that_came_twice_is_doubled(number: int) -> None:
    assert "doubled" in verdicts([*OPENING, *PIECES[: number + 1], *PIECES[number:], *CLOSING])


@given(st.permutations(PIECES))
def test_deltas_in_any_other_order_are_reordered(pieces: list[Frame]) -> None:
    assert ("reordered" in verdicts([*OPENING, *pieces, *CLOSING])) is (pieces != PIECES)


@given(st.integers(1, len(PIECES) - 1))
def test_another_attempt_without_a_reset_is_a_mixture(number: int) -> None:
    other = [delta(f"2-{9 + number}", piece) for number, piece in enumerate(words.pieces(WORDS, 1))]
    assert "mixed" in verdicts([*OPENING, *PIECES[:number], *other, *CLOSING])


@given(st.integers(0, len(PIECES)), st.integers(0, len(PIECES)))
def test_another_attempt_after_a_reset_is_none(first: int, second: int) -> None:
    pieces = words.pieces(WORDS, 1)
    text = "".join(pieces)
    frames = [*OPENING, *PIECES[:first], reset("2-50", "".join(pieces[:second]))]
    frames += [delta(f"2-{51 + number}", piece) for number, piece in enumerate(pieces[second:])]
    answer = {**ANSWER, "text": text}
    frames += [end(text), message(answer, "3-1")]
    questions = [Question(CONVERSATION, KEY, WORDS, frozenset({"complete"}), calls=2)]
    changes = {"histories": {CONVERSATION: [USER, answer]}, "logs": {RESPONSE: text}, "sent": {WORDS: [8, 8]}}
    assert verdicts(frames, questions=questions, **changes) == set()
    assert verdicts(frames, **changes) == {"overcalled"}


def test_an_end_that_never_comes_is_stuck() -> None:
    assert verdicts([*OPENING, *PIECES]) >= {"stuck"}


def test_a_message_that_is_never_accepted_is_stuck() -> None:
    assert verdicts(GOOD, answers={}) == {"stuck"}
    assert verdicts(GOOD, answers={}, refused={"v": {KEY: "busy"}}) == {"stuck"}


def test_one_submit_key_has_one_response_and_one_message() -> None:
    assert verdicts(GOOD, answers={"v": {KEY: RESPONSE}, "w": {KEY: "r2"}}) == {"doubled", "lost"}
    twice = [*GOOD, message({**USER, "id": "m3"}, "4-1")]
    assert verdicts(twice, histories={CONVERSATION: [USER, ANSWER, {**USER, "id": "m3"}]}) == {"doubled"}


def test_the_end_comes_before_the_settled_copy_and_is_the_last_frame() -> None:
    assert "reordered" in verdicts([*OPENING, *PIECES, *reversed(CLOSING)])
    assert "doubled" in verdicts([*OPENING, *PIECES, *CLOSING, end()])
    assert "doubled" in verdicts([*OPENING, *PIECES, *CLOSING, delta("1-100", "")])


def test_an_end_is_taken_back_only_where_the_store_lost_it() -> None:
    last = PIECES[-1]
    shorter = reset("1-9", TEXT.removesuffix(last["text"]))
    frames = [*OPENING, *PIECES, CLOSING[0], shorter, last, *CLOSING]
    assert verdicts(frames) == {"taken_back"}
    assert verdicts(frames, lossy=True) == set()
    # Cut off between the end and the settled copy.
    assert verdicts([*OPENING, *PIECES, CLOSING[0], reset("1-10", TEXT), *CLOSING]) == set()
    assert verdicts([*OPENING, *PIECES, CLOSING[0], reset("1-10", TEXT)]) >= {"stuck"}


def test_a_cursor_stands_for_one_text() -> None:
    checker = Checker(speaks_words=False)
    one, other = checker.watcher("v", CONVERSATION), checker.watcher("w", CONVERSATION)
    for watcher, text in ((one, "Hello"), (other, "Hallo")):
        for frame in (*OPENING, delta("1-3", text)):
            watcher.take(frame)
    assert {verdict.kind for verdict in checker.finish(truth(histories={}, questions=[], logs={}))} == {"unequal"}


def test_the_log_the_history_and_the_viewer_have_the_same_text() -> None:
    other = {**ANSWER, "text": TEXT[:-1]}
    assert "unequal" in verdicts(GOOD, histories={CONVERSATION: [USER, other]})
    assert verdicts(GOOD, logs={RESPONSE: TEXT[:-1]}) == {"unequal"}
    assert verdicts(GOOD, histories={CONVERSATION: [ANSWER, USER]}) == {"reordered"}
    assert verdicts(without(GOOD, 2)) == {"lost"}


def test_who_was_told_that_there_are_older_messages_need_not_have_those() -> None:
    snapshot = next(frame for frame in GOOD if frame["type"] == "snapshot")
    older = {"id": "m0", "role": "user", "text": "Before."}
    histories = {CONVERSATION: [older, USER, ANSWER]}
    assert verdicts(GOOD, histories=histories) == {"lost"}
    told = [{**snapshot, "more": True} if frame is snapshot else frame for frame in GOOD]
    assert verdicts(told, histories=histories) == set()
    assert verdicts(told, histories={CONVERSATION: [USER, older, ANSWER]}) == {"lost"}


def test_nothing_is_shown_that_the_provider_did_not_say() -> None:
    assert verdicts(GOOD, sent={WORDS: [7]}) == {"garbled"}
    assert "garbled" in verdicts([*OPENING, delta("1-3", "Hello"), *CLOSING])


def test_an_answer_ends_as_it_was_to_end() -> None:
    questions = [Question(CONVERSATION, KEY, WORDS, frozenset({"failed"}), calls=1)]
    assert verdicts(GOOD, questions=questions) == {"failed"}


def test_a_watch_goes_on_from_where_the_viewer_is() -> None:
    checker = Checker()
    watcher = checker.watcher("v", CONVERSATION)
    for frame in (*OPENING, *PIECES[:3]):
        watcher.take(frame)
    assert watcher.watch() == {
        "type": "watch",
        "conversation": CONVERSATION,
        "after": "2-1",
        "responses": {RESPONSE: "1-5"},
    }
    watcher.take({"type": "watching", "conversation": CONVERSATION, "cursor": "1-7", "resumed": True})
    assert [verdict.kind for verdict in checker.verdicts] == ["lost"]


@given(st.integers(0, 40), st.integers(0, 3), st.data())
def test_every_beginning_of_an_answer_is_right_and_every_hole_is_seen(
    size: int, call: int, data: st.DataObject
) -> None:
    key = f"{size}.abc"
    pieces = words.pieces(key, call)
    text = "".join(pieces)
    assert words.faults(text[: data.draw(st.integers(0, len(text)))]) in ([], ["garbled"])
    for number in range(size + 1):
        assert words.faults("".join(pieces[:number])) == []
    if size > 2:
        hole = data.draw(st.integers(0, size - 2))
        assert "lost" in words.faults("".join(pieces[:hole] + pieces[hole + 1 :]))


@pytest.mark.parametrize("cut", range(len(OPENING), len(GOOD) + 1))
def test_a_viewer_that_is_cut_off_anywhere_goes_on_without_a_complaint(cut: int) -> None:
    checker = Checker()
    watcher: Watcher = checker.watcher("v", CONVERSATION)
    for frame in GOOD[:cut]:
        watcher.take(frame)
    watcher.take({"type": "watching", "conversation": CONVERSATION, "cursor": watcher.cursor, "resumed": True})
    for frame in GOOD[cut:]:
        watcher.take(frame)
    assert checker.finish(truth()) == []
