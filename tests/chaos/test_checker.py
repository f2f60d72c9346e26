"""The checker detects each kind of violation and accepts every allowed sequence of frames."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos import marked_text
from tests.chaos.checker import Checker, Frame, GroundTruth, Kind, Question, ViewerState

CONVERSATION, RESPONSE, KEY, TEXT_KEY = "c1", "r1", "k1", "8.abc"
TEXT = marked_text.whole(TEXT_KEY, 0)
USER = {"id": "m1", "role": "user", "text": TEXT_KEY}
ANSWER = {"id": "m2", "role": "assistant", "response": RESPONSE, "reason": "complete", "text": TEXT}


def delta(cursor: str, text: str) -> Frame:
    return {"type": "delta", "response": RESPONSE, "cursor": cursor, "text": text}


def reset(cursor: str, text: str) -> Frame:
    return {"type": "reset", "response": RESPONSE, "cursor": cursor, "text": text, "reason": "attempt"}


def end(text: str = TEXT, **fields: Any) -> Frame:
    return {"type": "end", "response": RESPONSE, "cursor": "1-99", "reason": "complete", "chars": len(text), **fields}


def message_frame(content: dict[str, Any], cursor: str) -> Frame:
    return {"type": "message", "conversation": CONVERSATION, "cursor": cursor, "message": content}


OPENING: list[Frame] = [
    {"type": "watching", "conversation": CONVERSATION, "cursor": "0-0", "resumed": False},
    {"type": "snapshot", "conversation": CONVERSATION, "cursor": "0-0", "messages": [], "responses": []},
    message_frame(USER, "2-1"),
    {"type": "status", "response": RESPONSE, "cursor": "0-1", "state": "queued"},
    {"type": "start", "response": RESPONSE, "cursor": "1-2", "model": "m", "attempt": 1},
]
PIECES = [delta(f"1-{3 + number}", piece) for number, piece in enumerate(marked_text.pieces(TEXT_KEY, 0))]
CLOSING: list[Frame] = [end(), message_frame(ANSWER, "3-1")]
GOOD = [*OPENING, *PIECES, *CLOSING]


def truth(**changes: Any) -> GroundTruth:
    fields: dict[str, Any] = {
        "questions": [Question(CONVERSATION, KEY, TEXT_KEY, frozenset({"complete"}), calls=1)],
        "answers": {"v": {KEY: RESPONSE}},
        "rejected": {},
        "histories": {CONVERSATION: [USER, ANSWER]},
        "logs": {RESPONSE: TEXT},
        "sent": {TEXT_KEY: [8]},
        **changes,
    }
    return GroundTruth(**fields)


def verdicts(frames: list[Frame], **changes: Any) -> set[Kind]:
    checker = Checker()
    state = checker.add_viewer("v", CONVERSATION)
    for frame in frames:
        state.apply(frame)
    return {verdict.kind for verdict in checker.finish(truth(**changes))}


def without(frames: list[Frame], number: int) -> list[Frame]:
    return frames[:number] + frames[number + 1 :]


def test_correct_run_has_no_verdict() -> None:
    assert verdicts(GOOD) == set()


@given(st.integers(1, len(PIECES) - 1))
def test_missing_delta_is_lost(number: int) -> None:
    assert verdicts([*OPENING, *without(PIECES, number - 1), *CLOSING]) >= {"lost", "chars"}


@given(st.integers(0, len(PIECES) - 1))
def test_repeated_delta_is_duplicated(number: int) -> None:
    assert "duplicated" in verdicts([*OPENING, *PIECES[: number + 1], *PIECES[number:], *CLOSING])


@given(st.permutations(PIECES))
def test_permuted_deltas_are_reordered(pieces: list[Frame]) -> None:
    assert ("reordered" in verdicts([*OPENING, *pieces, *CLOSING])) is (pieces != PIECES)


@given(st.integers(1, len(PIECES) - 1))
def test_second_attempt_without_reset_is_mixed(number: int) -> None:
    other = [delta(f"2-{9 + number}", piece) for number, piece in enumerate(marked_text.pieces(TEXT_KEY, 1))]
    assert "mixed" in verdicts([*OPENING, *PIECES[:number], *other, *CLOSING])


@given(st.integers(0, len(PIECES)), st.integers(0, len(PIECES)))
def test_second_attempt_after_reset_is_accepted(first: int, second: int) -> None:
    pieces = marked_text.pieces(TEXT_KEY, 1)
    text = "".join(pieces)
    frames = [*OPENING, *PIECES[:first], reset("2-50", "".join(pieces[:second]))]
    frames += [delta(f"2-{51 + number}", piece) for number, piece in enumerate(pieces[second:])]
    answer = {**ANSWER, "text": text}
    frames += [end(text), message_frame(answer, "3-1")]
    questions = [Question(CONVERSATION, KEY, TEXT_KEY, frozenset({"complete"}), calls=2)]
    changes = {"histories": {CONVERSATION: [USER, answer]}, "logs": {RESPONSE: text}, "sent": {TEXT_KEY: [8, 8]}}
    assert verdicts(frames, questions=questions, **changes) == set()
    assert verdicts(frames, **changes) == {"extra_calls"}


def test_missing_end_is_stuck() -> None:
    assert verdicts([*OPENING, *PIECES]) >= {"stuck"}


def test_message_without_accepted_is_stuck() -> None:
    assert verdicts(GOOD, answers={}) == {"stuck"}
    assert verdicts(GOOD, answers={}, rejected={"v": {KEY: "busy"}}) == {"stuck"}


def test_second_response_of_one_key_is_duplicated() -> None:
    assert verdicts(GOOD, answers={"v": {KEY: RESPONSE}, "w": {KEY: "r2"}}) == {"duplicated", "lost"}
    twice = [*GOOD, message_frame({**USER, "id": "m3"}, "4-1")]
    assert verdicts(twice, histories={CONVERSATION: [USER, ANSWER, {**USER, "id": "m3"}]}) == {"duplicated"}


def test_end_precedes_settled_copy_and_is_last_frame() -> None:
    assert "reordered" in verdicts([*OPENING, *PIECES, *reversed(CLOSING)])
    assert "duplicated" in verdicts([*OPENING, *PIECES, *CLOSING, end()])
    assert "duplicated" in verdicts([*OPENING, *PIECES, *CLOSING, delta("1-100", "")])


def test_end_is_revoked_only_if_store_is_lossy() -> None:
    last = PIECES[-1]
    shorter = reset("1-9", TEXT.removesuffix(last["text"]))
    frames = [*OPENING, *PIECES, CLOSING[0], shorter, last, *CLOSING]
    assert verdicts(frames) == {"end_revoked"}
    assert verdicts(frames, lossy=True) == set()
    # The connection broke between the end and the settled copy.
    assert verdicts([*OPENING, *PIECES, CLOSING[0], reset("1-10", TEXT), *CLOSING]) == set()
    assert verdicts([*OPENING, *PIECES, CLOSING[0], reset("1-10", TEXT)]) >= {"stuck"}


def test_two_texts_at_one_cursor_are_diverged() -> None:
    checker = Checker(expects_marked_text=False)
    one, other = checker.add_viewer("v", CONVERSATION), checker.add_viewer("w", CONVERSATION)
    for state, text in ((one, "Hello"), (other, "Hallo")):
        for frame in (*OPENING, delta("1-3", text)):
            state.apply(frame)
    assert {verdict.kind for verdict in checker.finish(truth(histories={}, questions=[], logs={}))} == {"diverged"}


def test_log_history_and_viewer_must_agree() -> None:
    other = {**ANSWER, "text": TEXT[:-1]}
    assert "diverged" in verdicts(GOOD, histories={CONVERSATION: [USER, other]})
    assert verdicts(GOOD, logs={RESPONSE: TEXT[:-1]}) == {"diverged"}
    assert verdicts(GOOD, histories={CONVERSATION: [ANSWER, USER]}) == {"reordered"}
    assert verdicts(without(GOOD, 2)) == {"lost"}


def test_shortened_snapshot_may_omit_older_messages() -> None:
    snapshot = next(frame for frame in GOOD if frame["type"] == "snapshot")
    older = {"id": "m0", "role": "user", "text": "Before."}
    histories = {CONVERSATION: [older, USER, ANSWER]}
    assert verdicts(GOOD, histories=histories) == {"lost"}
    shortened = [{**snapshot, "more": True} if frame is snapshot else frame for frame in GOOD]
    assert verdicts(shortened, histories=histories) == set()
    assert verdicts(shortened, histories={CONVERSATION: [USER, older, ANSWER]}) == {"lost"}


def test_text_that_provider_did_not_send_is_corrupted() -> None:
    assert verdicts(GOOD, sent={TEXT_KEY: [7]}) == {"corrupted"}
    assert "corrupted" in verdicts([*OPENING, delta("1-3", "Hello"), *CLOSING])


def test_unexpected_end_reason_is_failed() -> None:
    questions = [Question(CONVERSATION, KEY, TEXT_KEY, frozenset({"failed"}), calls=1)]
    assert verdicts(GOOD, questions=questions) == {"failed"}


def test_watch_resumes_from_last_cursors() -> None:
    checker = Checker()
    state = checker.add_viewer("v", CONVERSATION)
    for frame in (*OPENING, *PIECES[:3]):
        state.apply(frame)
    assert state.watch() == {
        "type": "watch",
        "conversation": CONVERSATION,
        "after": "2-1",
        "responses": {RESPONSE: "1-5"},
    }
    state.apply({"type": "watching", "conversation": CONVERSATION, "cursor": "1-7", "resumed": True})
    assert [verdict.kind for verdict in checker.verdicts] == ["lost"]


@given(st.integers(0, 40), st.integers(0, 3), st.data())
def test_prefix_has_no_defect_and_gap_is_lost(size: int, call: int, data: st.DataObject) -> None:
    key = f"{size}.abc"
    pieces = marked_text.pieces(key, call)
    text = "".join(pieces)
    prefix = text[: data.draw(st.integers(0, len(text)))]
    # A prefix shorter than the first mark has no origin to compare with.
    assert marked_text.defects(prefix) == ([] if not prefix or marked_text.MARK.match(prefix) else ["corrupted"])
    for number in range(size + 1):
        assert marked_text.defects("".join(pieces[:number])) == []
    if size > 2:
        gap = data.draw(st.integers(0, size - 2))
        assert "lost" in marked_text.defects("".join(pieces[:gap] + pieces[gap + 1 :]))


@pytest.mark.parametrize("cut", range(len(OPENING), len(GOOD) + 1))
def test_viewer_resumed_at_any_point_has_no_verdict(cut: int) -> None:
    checker = Checker()
    state: ViewerState = checker.add_viewer("v", CONVERSATION)
    for frame in GOOD[:cut]:
        state.apply(frame)
    state.apply({"type": "watching", "conversation": CONVERSATION, "cursor": state.cursor, "resumed": True})
    for frame in GOOD[cut:]:
        state.apply(frame)
    assert checker.finish(truth()) == []
