"""What a client of the protocol sees, judged: frames in, verdicts out.

It knows PROTOCOL.md and, where the answers are `words`, what each must be; it knows nothing of Tokenwire's insides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import dropwhile
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from tests.chaos import words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Frame = dict[str, Any]
Kind = Literal[
    "lost",  # something that was written never came
    "doubled",  # something came twice
    "reordered",  # something came before what it follows on
    "mixed",  # texts of two attempts in one, without a reset
    "stuck",  # no end, or no answer, within the bound
    "garbled",  # characters that nobody wrote
    "unequal",  # two viewers, or a viewer and the log, differ
    "chars",  # `chars` is not the number of characters
    "taken_back",  # an end was not the last frame, though the store lost nothing
    "overcalled",  # the provider was paid more often than a crash explains
    "failed",  # an answer failed, or ended otherwise, for no reason
    "forbidden",  # a frame that the protocol does not allow
]
KINDS: Final[tuple[Kind, ...]] = (
    "lost", "doubled", "reordered", "mixed", "stuck", "garbled", "unequal", "chars", "taken_back", "overcalled",
    "failed", "forbidden",
)  # fmt: skip


class Verdict(NamedTuple):
    """One thing that must not be."""

    kind: Kind
    viewer: str
    about: str
    detail: str


@dataclass(slots=True)
class Shown:
    """One response, as a viewer shows it."""

    text: str = ""
    reasoning: str = ""
    cursor: str | None = None
    end: Frame | None = None
    settled: bool = False
    resets: list[str] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether nothing more is to come of it: of what the store lost there is no settled copy."""
        return self.end is not None and (self.settled or (self.end.get("error") or {}).get("code") == "gone")


@dataclass(frozen=True, slots=True)
class Question:
    """A message that was sent, and what may become of it."""

    conversation: str
    key: str
    """The submit key."""
    words: str
    """The key of its answer, with which its text begins."""
    reasons: frozenset[str]
    """How its answer may end."""
    calls: int
    """How often the provider may be paid for it."""
    refusable: bool = False
    """Whether it may be refused for good (`busy`, another text under its key)."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What stands in the end, as it is known without any viewer."""

    questions: Sequence[Question]
    answers: Mapping[str, Mapping[str, str]]
    """Each viewer's `accepted` frames: submit key to response."""
    refused: Mapping[str, Mapping[str, str]]
    """Each viewer's refusals for good: submit key to error code."""
    histories: Mapping[str, Sequence[Frame]]
    """Each conversation's messages, as a viewer that came last was given them."""
    logs: Mapping[str, str | None]
    """Each response's text in its log; None where the log is no more."""
    sent: Mapping[str, Sequence[int]]
    """For each key of words: the pieces that each of the provider's calls sent."""
    shortened: frozenset[str] = frozenset()
    """Conversations of which the last viewer was told that there are older messages."""
    lossy: bool = False
    """The store itself lost something: an answer may be gone, if its viewers were told."""


class Checker:
    """All viewers of a run."""

    def __init__(self, *, speaks_words: bool = True, kind: type[Watcher] | None = None) -> None:
        """`speaks_words`: whether the answers are `words`; otherwise viewers are only compared with each other.
        `kind`: what its viewers are.
        """
        self.speaks_words = speaks_words
        self._kind = kind or Watcher
        self.watchers: dict[str, Watcher] = {}
        self.verdicts: list[Verdict] = []
        self.tokens = 0
        self._texts: dict[tuple[str, str], int] = {}
        self._took_back: list[Verdict] = []

    def watcher(self, name: str, conversation: str) -> Watcher:
        """One more viewer."""
        watcher = self.watchers[name] = self._kind(self, name, conversation)
        return watcher

    def blame(self, kind: Kind, viewer: str, about: str, detail: str) -> None:
        """Note a verdict, once each."""
        verdict = Verdict(kind, viewer, about, detail)
        # Whether it may be is known in the end.
        notes = self._took_back if kind == "taken_back" else self.verdicts
        if not any(other[:3] == verdict[:3] for other in notes):
            notes.append(verdict)

    def agree(self, viewer: str, response: str, cursor: str, text: str) -> None:
        """A cursor stands for one text, whoever is given it."""
        seen = self._texts.setdefault((response, cursor), hash(text))
        if seen != hash(text):
            self.blame("unequal", viewer, response, f"another text at {cursor} than another viewer has")

    def finish(self, truth: Truth) -> list[Verdict]:
        """Everything that was wrong, now that all must have come."""
        if not truth.lossy:
            self.verdicts += self._took_back
        settled = {
            message["response"]: message
            for history in truth.histories.values()
            for message in history
            if message.get("response")
        }
        for watcher in self.watchers.values():
            self._compare(watcher, truth, settled)
        for question in truth.questions:
            self._ask_after(question, truth, settled)
        if self.speaks_words:
            for response, message in settled.items():
                self._trace(response, message, truth)
        for response, text in truth.logs.items():
            if response in settled and text is not None and text != settled[response]["text"]:
                self.blame("unequal", "the log", response, "the settled text is not the log's")
        return self.verdicts

    def _compare(self, watcher: Watcher, truth: Truth, settled: Mapping[str, Frame]) -> None:
        history = truth.histories.get(watcher.conversation)
        if history is None:
            return
        for response, shown in watcher.shown.items():
            if shown.end is None:
                self.blame("stuck", watcher.name, response, f"no end after {len(shown.text)} characters")
            elif response in settled and shown.text != settled[response]["text"]:
                self.blame("unequal", watcher.name, response, "shows another text than was settled")
        mine, others = list(watcher.messages), [message["id"] for message in history]
        if watcher.shortened and mine:
            # It was told that there are older messages, and the last viewer may still have been given those.
            others = list(dropwhile(lambda message: message not in watcher.messages, others))
        if missing := set(others) - set(mine):
            self.blame("lost", watcher.name, "history", f"{len(missing)} messages of {len(others)} never came")
        if watcher.conversation in truth.shortened:
            # It still has what is left out of a long history.
            mine = mine[-len(others) :]
        if more := set(mine) - set(others):
            self.blame("unequal", watcher.name, "history", f"{len(more)} messages that are in no history")
        if not missing and not more and mine != others:
            self.blame("reordered", watcher.name, "history", "the messages stand in another order")
        for message in history:
            mine_of_it = watcher.messages.get(message["id"], message)
            if any(mine_of_it.get(name) != message.get(name) for name in ("role", "text", "response", "reason")):
                self.blame("unequal", watcher.name, message["id"], "the message is another one")

    def _ask_after(self, question: Question, truth: Truth, settled: Mapping[str, Frame]) -> None:
        responses = {answers[question.key] for answers in truth.answers.values() if question.key in answers}
        refusals = {codes[question.key] for codes in truth.refused.values() if question.key in codes}
        about = question.words
        if len(responses) > 1 and not truth.lossy:
            self.blame("doubled", "", about, f"one submit key has {len(responses)} responses")
        if not responses and not (refusals and question.refusable):
            self.blame("stuck", "", about, f"the message was never accepted ({', '.join(refusals) or 'no answer'})")
        said = Counter(
            message["text"].partition(" ")[0]
            for message in truth.histories.get(question.conversation, ())
            if message["role"] == "user"
        )[question.words]
        if said > 1:
            self.blame("doubled", "", about, f"the message stands {said} times in the history")
        if responses and not said and not truth.lossy:
            self.blame("lost", "", about, "the accepted message is not in the history")
        calls = len(truth.sent.get(question.words, ()))
        if calls > question.calls:
            self.blame("overcalled", "", about, f"{calls} calls of the provider, {question.calls} may be")
        for response in responses:
            message = settled.get(response)
            if message is None:
                if not truth.lossy:
                    self.blame("lost", "", about, f"{response} was accepted and is not in the history")
                continue
            if message["reason"] not in question.reasons:
                error = message.get("error") or {}
                self.blame("failed", "", about, f"ended {message['reason']} ({error.get('code')})")
            begun = words.source(message["text"])
            if self.speaks_words and begun is not None and begun[0] != question.words:
                self.blame("mixed", "", about, f"answered with the words of {begun[0]}")

    def _trace(self, response: str, message: Frame, truth: Truth) -> None:
        for fault in words.faults(message["text"]):
            self.blame(fault, "the history", response, "the settled text")
        begun = words.source(message["text"])
        if begun is None:
            if message["reason"] == "complete":
                self.blame("lost", "the history", response, "complete, without a text")
            return
        key, call = begun
        sent = truth.sent.get(key, ())
        if call >= len(sent) or words.count(message["text"]) > sent[call]:
            self.blame("garbled", "the history", response, "more than the provider sent")
        if message["reason"] == "complete" and message["text"] != words.whole(key, call):
            self.blame("lost", "the history", response, "complete, but not whole")


class Watcher:
    """One viewer of one conversation: what it shows, and what it keeps to go on."""

    def __init__(self, checker: Checker, name: str, conversation: str) -> None:
        self.name = name
        self.conversation = conversation
        self.cursor: str | None = None
        self.messages: dict[str, Frame] = {}
        self.shown: dict[str, Shown] = {}
        self.shortened = False
        """Older messages were left out of the last snapshot."""
        self.watches = False
        """A watch was answered, and what it said has come."""
        self._checker = checker

    @property
    def open(self) -> dict[str, Shown]:
        """The responses whose end has not come."""
        return {name: shown for name, shown in self.shown.items() if shown.end is None}

    def knows(self, response: str) -> bool:
        """Whether anything of a response has come."""
        return response in self.shown or any(each.get("response") == response for each in self.messages.values())

    def watch(self) -> Frame:
        """The frame with which to go on from here."""
        frame: Frame = {"type": "watch", "conversation": self.conversation}
        if self.cursor is not None:
            frame["after"] = self.cursor
            frame["responses"] = {name: shown.cursor for name, shown in self.open.items() if shown.cursor}
        return frame

    def forget(self) -> None:
        """Know nothing any more, as a page that was loaded anew."""
        self.cursor = None
        self.messages, self.shown = {}, {}

    def take(self, frame: Frame) -> None:
        """Take one frame."""
        match frame["type"]:
            case "watching":
                if frame["resumed"]:
                    self.watches = True
                    if frame["cursor"] != self.cursor:
                        self._blame("lost", "history", f"resumed from {frame['cursor']}, not from {self.cursor}")
            case "snapshot":
                self.watches = True
                self._snapshot(frame)
            case "message":
                self.cursor = frame["cursor"]
                self._message(frame["message"])
            case "start" | "delta" | "status":
                self._go_on(frame)
            case "reset":
                shown = self.shown.setdefault(frame["response"], Shown())
                if frame["text"] != shown.text:
                    self._reopen(frame["response"], shown)
                # Otherwise it was cut off between the end and the settled copy, and is told both again.
                shown.end = None
                shown.text, shown.reasoning = frame["text"], frame.get("reasoning", "")
                shown.resets.append(frame["reason"])
                self._at(frame["response"], shown, frame["cursor"])
            case "end":
                self._end(frame)

    def _blame(self, kind: Kind, about: str, detail: str) -> None:
        self._checker.blame(kind, self.name, about, detail)

    def _snapshot(self, frame: Frame) -> None:
        self.cursor = frame["cursor"]
        self.shortened = frame.get("more", False)
        self.messages = {message["id"]: message for message in frame["messages"]}
        settled = {message["response"]: message for message in frame["messages"] if message.get("response")}
        for name, shown in list(self.shown.items()):
            shown.settled = name in settled
            if shown.end is not None and not shown.settled:
                # Replace what you have with it: it says nothing of this one.
                self._reopen(name, shown)
                del self.shown[name]
            elif shown.end is not None and shown.text != settled[name]["text"]:
                self._blame("taken_back", name, "it had ended with another text")
                shown.text = settled[name]["text"]
        for each in frame["responses"]:
            shown = self.shown.setdefault(each["response"], Shown())
            self._reopen(each["response"], shown)
            shown.text, shown.reasoning = each["text"], each.get("reasoning", "")
            self._at(each["response"], shown, each["cursor"])

    def _reopen(self, response: str, shown: Shown) -> None:
        if shown.end is not None:
            self._blame("taken_back", response, "it had its end")
            shown.end = None

    def _message(self, message: Frame) -> None:
        if message["id"] in self.messages:
            self._blame("doubled", message["id"], "the message came twice")
        self.messages[message["id"]] = message
        shown = self.shown.get(message.get("response", ""))
        if shown is None:
            return
        shown.settled = True
        if shown.end is None:
            self._blame("reordered", message["response"], "settled before its end")
        elif shown.text != message["text"]:
            self._blame("unequal", message["response"], "settled with another text than was shown")

    def _go_on(self, frame: Frame) -> None:
        response = frame["response"]
        if frame["type"] == "status" and frame["state"] == "ended":
            return
        shown = self.shown.setdefault(response, Shown())
        if shown.end is not None and frame["type"] == "start" and (shown.end.get("error") or {}).get("code") == "gone":
            # Nothing was left of it, as far as one gateway knew, and another one still has it.
            self._reopen(response, shown)
            shown = self.shown[response] = Shown()
        if shown.end is not None:
            self._blame("doubled", response, f"a {frame['type']} after its end")
            return
        if frame["type"] == "delta":
            shown.text += frame["text"]
            shown.reasoning += frame.get("reasoning", "")
            self._checker.tokens += words.count(frame["text"])
        if frame.get("cursor") is not None:
            self._at(response, shown, frame["cursor"])

    def _at(self, response: str, shown: Shown, cursor: str) -> None:
        shown.cursor = cursor
        self._checker.agree(self.name, response, cursor, shown.text + "\0" + shown.reasoning)
        if self._checker.speaks_words:
            for text in (shown.text, shown.reasoning):
                for fault in words.faults(text):
                    self._blame(fault, response, f"at {cursor}, {len(text)} characters")

    def _end(self, frame: Frame) -> None:
        response = frame["response"]
        shown = self.shown.setdefault(response, Shown())
        if shown.end is not None:
            self._blame("doubled", response, "a second end")
            return
        shown.end, shown.cursor = frame, frame["cursor"]
        if frame.get("chars", len(shown.text)) != len(shown.text):
            self._blame("chars", response, f"{len(shown.text)} characters, not {frame['chars']}")
