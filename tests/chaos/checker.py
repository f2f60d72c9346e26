"""Checks what protocol clients receive: frames in, verdicts out.

It knows PROTOCOL.md and, for marked texts, the expected answers. It knows nothing about the internals of Tokenwire.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import dropwhile
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from tests.chaos import marked_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Frame = dict[str, Any]
Kind = Literal[
    "lost",  # a written entry never arrived
    "duplicated",  # an entry arrived twice
    "reordered",  # an entry arrived before its predecessor
    "mixed",  # texts of two attempts without a reset between them
    "stuck",  # no end or no reply within the bound
    "corrupted",  # characters that the provider did not send
    "diverged",  # two viewers, or a viewer and the log, show different texts
    "chars",  # `chars` is not the number of characters
    "end_revoked",  # frames after an end, although the store lost nothing
    "extra_calls",  # more billed provider calls than the faults explain
    "failed",  # an answer ended for a reason that nothing explains
    "forbidden",  # output or a frame that is never allowed
]
KINDS: Final[tuple[Kind, ...]] = (
    "lost", "duplicated", "reordered", "mixed", "stuck", "corrupted", "diverged", "chars", "end_revoked", "extra_calls",
    "failed", "forbidden",
)  # fmt: skip


class Verdict(NamedTuple):
    """A violation."""

    kind: Kind
    viewer: str
    about: str
    detail: str


@dataclass(slots=True)
class ShownResponse:
    """A response as a viewer shows it."""

    text: str = ""
    reasoning: str = ""
    cursor: str | None = None
    end: Frame | None = None
    settled: bool = False
    resets: list[str] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Return whether no more frames are expected. A response that the store lost has no settled copy."""
        return self.end is not None and (self.settled or (self.end.get("error") or {}).get("code") == "gone")


@dataclass(frozen=True, slots=True)
class Question:
    """A sent message and its allowed outcomes."""

    conversation: str
    key: str
    """Idempotency key."""
    text_key: str
    """Key of the marked text of its answer."""
    reasons: frozenset[str]
    """Allowed end reasons."""
    calls: int
    """Maximum number of billed provider calls."""
    rejectable: bool = False
    """Whether a permanent rejection is allowed (`busy`, or another text with the same key)."""


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The final state, obtained independently of the checked viewers."""

    questions: Sequence[Question]
    answers: Mapping[str, Mapping[str, str]]
    """`accepted` frames per viewer: idempotency key to response."""
    rejected: Mapping[str, Mapping[str, str]]
    """Permanent rejections per viewer: idempotency key to error code."""
    histories: Mapping[str, Sequence[Frame]]
    """Messages per conversation, as received by a viewer that joined last."""
    logs: Mapping[str, str | None]
    """Text per response according to its log; None if the log no longer exists."""
    sent: Mapping[str, Sequence[int]]
    """Per text key: the number of pieces that each provider call sent."""
    shortened: frozenset[str] = frozenset()
    """Conversations whose last viewer received a shortened history (`more`)."""
    lossy: bool = False
    """The store lost acknowledged writes: an answer may be missing if its viewers were notified."""


class Checker:
    """Checks all viewers of a run against the protocol and against each other."""

    def __init__(self, *, expects_marked_text: bool = True, state: type[ViewerState] | None = None) -> None:
        """`expects_marked_text`: if False, viewers are only compared with each other. `state`: class of viewers."""
        self.expects_marked_text = expects_marked_text
        self._state = state or ViewerState
        self.viewers: dict[str, ViewerState] = {}
        self.verdicts: list[Verdict] = []
        self.tokens = 0
        self._texts: dict[tuple[str, str], int] = {}
        self._end_revocations: list[Verdict] = []

    def add_viewer(self, name: str, conversation: str) -> ViewerState:
        """Return the state of a new viewer, which is checked from now on."""
        state = self.viewers[name] = self._state(self, name, conversation)
        return state

    def report(self, kind: Kind, viewer: str, about: str, detail: str) -> None:
        """Record a verdict, without repetition."""
        verdict = Verdict(kind, viewer, about, detail)
        # Only the final state shows whether the store lost the end.
        verdicts = self._end_revocations if kind == "end_revoked" else self.verdicts
        if not any(other[:3] == verdict[:3] for other in verdicts):
            verdicts.append(verdict)

    def check_text_at(self, viewer: str, response: str, cursor: str, text: str) -> None:
        """Check that all viewers have the same text at a cursor."""
        seen = self._texts.setdefault((response, cursor), hash(text))
        if seen != hash(text):
            self.report("diverged", viewer, response, f"differs from another viewer at {cursor}")

    def finish(self, truth: GroundTruth) -> list[Verdict]:
        """Return all verdicts, after the last frame has arrived."""
        if not truth.lossy:
            self.verdicts += self._end_revocations
        settled = {
            message["response"]: message
            for history in truth.histories.values()
            for message in history
            if message.get("response")
        }
        for state in self.viewers.values():
            self._compare(state, truth, settled)
        for question in truth.questions:
            self._check_question(question, truth, settled)
        if self.expects_marked_text:
            for response, message in settled.items():
                self._check_settled_text(response, message, truth)
        for response, text in truth.logs.items():
            if response in settled and text is not None and text != settled[response]["text"]:
                self.report("diverged", "the log", response, "the settled text differs from the log")
        return self.verdicts

    def _compare(self, state: ViewerState, truth: GroundTruth, settled: Mapping[str, Frame]) -> None:
        history = truth.histories.get(state.conversation)
        if history is None:
            return
        for response, shown in state.shown.items():
            if shown.end is None:
                self.report("stuck", state.name, response, f"no end after {len(shown.text)} characters")
            elif response in settled and shown.text != settled[response]["text"]:
                self.report("diverged", state.name, response, "the shown text differs from the settled text")
        mine, others = list(state.messages), [message["id"] for message in history]
        if state.shortened and mine:
            # Its snapshot announced older messages; the last viewer may have received those.
            others = list(dropwhile(lambda message: message not in state.messages, others))
        if missing := set(others) - set(mine):
            self.report("lost", state.name, "history", f"{len(missing)} messages of {len(others)} missing")
        if state.conversation in truth.shortened:
            # It still has messages that the shortened history omits.
            mine = mine[-len(others) :]
        if more := set(mine) - set(others):
            self.report("diverged", state.name, "history", f"{len(more)} messages that are not in the history")
        if not missing and not more and mine != others:
            self.report("reordered", state.name, "history", "the messages are in another order")
        for message in history:
            own = state.messages.get(message["id"], message)
            if any(own.get(name) != message.get(name) for name in ("role", "text", "response", "reason")):
                self.report("diverged", state.name, message["id"], "the message differs")

    def _check_question(self, question: Question, truth: GroundTruth, settled: Mapping[str, Frame]) -> None:
        responses = {answers[question.key] for answers in truth.answers.values() if question.key in answers}
        rejections = {codes[question.key] for codes in truth.rejected.values() if question.key in codes}
        about = question.text_key
        if len(responses) > 1 and not truth.lossy:
            self.report("duplicated", "", about, f"one idempotency key has {len(responses)} responses")
        if not responses and not (rejections and question.rejectable):
            self.report("stuck", "", about, f"the message was never accepted ({', '.join(rejections) or 'no reply'})")
        count = Counter(
            message["text"].partition(" ")[0]
            for message in truth.histories.get(question.conversation, ())
            if message["role"] == "user"
        )[question.text_key]
        if count > 1:
            self.report("duplicated", "", about, f"the message is {count} times in the history")
        if responses and not count and not truth.lossy:
            self.report("lost", "", about, "the accepted message is not in the history")
        calls = len(truth.sent.get(question.text_key, ()))
        if calls > question.calls:
            self.report("extra_calls", "", about, f"{calls} provider calls, at most {question.calls} allowed")
        for response in responses:
            message = settled.get(response)
            if message is None:
                if not truth.lossy:
                    self.report("lost", "", about, f"{response} was accepted and is not in the history")
                continue
            if message["reason"] not in question.reasons:
                error = message.get("error") or {}
                self.report("failed", "", about, f"ended {message['reason']} ({error.get('code')})")
            origin = marked_text.source(message["text"])
            if self.expects_marked_text and origin is not None and origin[0] != question.text_key:
                self.report("mixed", "", about, f"answered with the text of {origin[0]}")

    def _check_settled_text(self, response: str, message: Frame, truth: GroundTruth) -> None:
        for defect in marked_text.defects(message["text"]):
            self.report(defect, "the history", response, "the settled text")
        origin = marked_text.source(message["text"])
        if origin is None:
            if message["reason"] == "complete":
                self.report("lost", "the history", response, "complete without text")
            return
        key, call = origin
        sent = truth.sent.get(key, ())
        if call >= len(sent) or marked_text.count(message["text"]) > sent[call]:
            self.report("corrupted", "the history", response, "more than the provider sent")
        if message["reason"] == "complete" and message["text"] != marked_text.whole(key, call):
            self.report("lost", "the history", response, "complete but shortened")


class ViewerState:
    """State of one viewer of one conversation: what it shows, and the cursors to resume from."""

    def __init__(self, checker: Checker, name: str, conversation: str) -> None:
        self.name = name
        self.conversation = conversation
        self.cursor: str | None = None
        self.messages: dict[str, Frame] = {}
        self.shown: dict[str, ShownResponse] = {}
        self.shortened = False
        """The last snapshot omitted older messages."""
        self.subscribed = False
        """A watch was answered and its first frames have arrived."""
        self._checker = checker

    @property
    def open(self) -> dict[str, ShownResponse]:
        """Return the responses without an end."""
        return {name: shown for name, shown in self.shown.items() if shown.end is None}

    def has_response(self, response: str) -> bool:
        """Return whether any frame of a response has arrived."""
        return response in self.shown or any(each.get("response") == response for each in self.messages.values())

    def watch(self) -> Frame:
        """Return the watch frame that resumes from the current cursors."""
        frame: Frame = {"type": "watch", "conversation": self.conversation}
        if self.cursor is not None:
            frame["after"] = self.cursor
            frame["responses"] = {name: shown.cursor for name, shown in self.open.items() if shown.cursor}
        return frame

    def forget(self) -> None:
        """Discard all state, like a reloaded page."""
        self.cursor = None
        self.messages, self.shown = {}, {}

    def apply(self, frame: Frame) -> None:
        """Apply a frame."""
        match frame["type"]:
            case "watching":
                if frame["resumed"]:
                    self.subscribed = True
                    if frame["cursor"] != self.cursor:
                        self._report("lost", "history", f"resumed from {frame['cursor']}, not from {self.cursor}")
            case "snapshot":
                self.subscribed = True
                self._snapshot(frame)
            case "message":
                self.cursor = frame["cursor"]
                self._message(frame["message"])
            case "start" | "delta" | "status":
                self._continue(frame)
            case "reset":
                shown = self.shown.setdefault(frame["response"], ShownResponse())
                if frame["text"] != shown.text:
                    self._reopen(frame["response"], shown)
                # Otherwise the connection broke between the end and the settled copy, and both are sent again.
                shown.end = None
                shown.text, shown.reasoning = frame["text"], frame.get("reasoning", "")
                shown.resets.append(frame["reason"])
                self._advance(frame["response"], shown, frame["cursor"])
            case "end":
                self._end(frame)

    def _report(self, kind: Kind, about: str, detail: str) -> None:
        self._checker.report(kind, self.name, about, detail)

    def _snapshot(self, frame: Frame) -> None:
        self.cursor = frame["cursor"]
        self.shortened = frame.get("more", False)
        self.messages = {message["id"]: message for message in frame["messages"]}
        settled = {message["response"]: message for message in frame["messages"] if message.get("response")}
        for name, shown in list(self.shown.items()):
            shown.settled = name in settled
            if shown.end is not None and not shown.settled:
                # A snapshot replaces everything, and it does not contain this response.
                self._reopen(name, shown)
                del self.shown[name]
            elif shown.end is not None and shown.text != settled[name]["text"]:
                self._report("end_revoked", name, "had ended with another text")
                shown.text = settled[name]["text"]
        for each in frame["responses"]:
            shown = self.shown.setdefault(each["response"], ShownResponse())
            self._reopen(each["response"], shown)
            shown.text, shown.reasoning = each["text"], each.get("reasoning", "")
            self._advance(each["response"], shown, each["cursor"])

    def _reopen(self, response: str, shown: ShownResponse) -> None:
        if shown.end is not None:
            self._report("end_revoked", response, "had already ended")
            shown.end = None

    def _message(self, message: Frame) -> None:
        if message["id"] in self.messages:
            self._report("duplicated", message["id"], "the message arrived twice")
        self.messages[message["id"]] = message
        shown = self.shown.get(message.get("response", ""))
        if shown is None:
            return
        shown.settled = True
        if shown.end is None:
            self._report("reordered", message["response"], "settled before its end")
        elif shown.text != message["text"]:
            self._report("diverged", message["response"], "the settled text differs from the shown text")

    def _continue(self, frame: Frame) -> None:
        response = frame["response"]
        if frame["type"] == "status" and frame["state"] == "ended":
            return
        shown = self.shown.setdefault(response, ShownResponse())
        if shown.end is not None and frame["type"] == "start" and (shown.end.get("error") or {}).get("code") == "gone":
            # One gateway found the log expired; another one still has it.
            self._reopen(response, shown)
            shown = self.shown[response] = ShownResponse()
        if shown.end is not None:
            self._report("duplicated", response, f"a {frame['type']} after its end")
            return
        if frame["type"] == "delta":
            shown.text += frame["text"]
            shown.reasoning += frame.get("reasoning", "")
            self._checker.tokens += marked_text.count(frame["text"])
        if frame.get("cursor") is not None:
            self._advance(response, shown, frame["cursor"])

    def _advance(self, response: str, shown: ShownResponse, cursor: str) -> None:
        shown.cursor = cursor
        self._checker.check_text_at(self.name, response, cursor, shown.text + "\0" + shown.reasoning)
        if self._checker.expects_marked_text:
            for text in (shown.text, shown.reasoning):
                for defect in marked_text.defects(text):
                    self._report(defect, response, f"at {cursor}, {len(text)} characters")

    def _end(self, frame: Frame) -> None:
        response = frame["response"]
        shown = self.shown.setdefault(response, ShownResponse())
        if shown.end is not None:
            self._report("duplicated", response, "a second end")
            return
        shown.end, shown.cursor = frame, frame["cursor"]
        if frame.get("chars", len(shown.text)) != len(shown.text):
            self._report("chars", response, f"{len(shown.text)} characters, not {frame['chars']}")
