"""Reference client of PROTOCOL.md: folds server frames into the shown state and knows the cursors to resume from.

It knows only the protocol. It raises `ProtocolBrokenError` for every frame that a server must not send.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class ProtocolBrokenError(AssertionError):
    """The server sent a frame that the protocol forbids."""


@dataclass
class Answer:
    """The shown state of one response."""

    text: str = ""
    reasoning: str = ""
    cursor: str | None = None
    state: str = "queued"
    attempt: int = 0
    reason: str | None = None
    retryable: bool | None = None
    error: dict[str, str] | None = None
    usage: dict[str, int] | None = None
    ends: int = 0
    resets: list[str] = field(default_factory=list)
    states: list[str] = field(default_factory=list)


class Transcript:
    """One conversation as seen by one client."""

    def __init__(self, conversation: str) -> None:
        self.conversation = conversation
        self.cursor: str | None = None
        self.messages: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, Answer] = {}
        self.snapshots = 0
        self.resumed: bool | None = None

    @property
    def open(self) -> dict[str, Answer]:
        """Return the responses without an end."""
        return {name: answer for name, answer in self.answers.items() if not answer.ends}

    def watch(self) -> dict[str, Any]:
        """Return the watch frame that resumes from the current cursors."""
        frame: dict[str, Any] = {"type": "watch", "conversation": self.conversation}
        if self.cursor is not None:
            frame["after"] = self.cursor
            frame["responses"] = {name: answer.cursor for name, answer in self.open.items() if answer.cursor}
        return frame

    def fold(self, frame: dict[str, Any]) -> None:
        """Apply a frame. Raises ProtocolBrokenError if it is not allowed."""
        match frame["type"]:
            case "watching":
                self.resumed = frame["resumed"]
                if frame["resumed"] and frame["cursor"] != self.cursor:
                    raise ProtocolBrokenError(f"resumed from {frame['cursor']}, not from {self.cursor}")
            case "snapshot":
                self._snapshot(frame)
            case "message":
                self.cursor = frame["cursor"]
                self._settle(frame["message"])
            case "start":
                answer = self._open(frame["response"])
                answer.cursor, answer.attempt, answer.state = frame["cursor"], frame["attempt"], "running"
            case "delta":
                answer = self._open(frame["response"])
                answer.text += frame["text"]
                answer.reasoning += frame.get("reasoning", "")
                answer.cursor, answer.state = frame["cursor"], "running"
            case "reset":
                # The only frame that may follow an end: the store lost the end.
                answer = self.answers.setdefault(frame["response"], Answer())
                answer.ends = 0
                answer.text, answer.reasoning = frame["text"], frame.get("reasoning", "")
                answer.cursor = frame["cursor"]
                answer.resets.append(frame["reason"])
            case "status":
                if frame["state"] != "ended":
                    answer = self._open(frame["response"])
                    answer.state = frame["state"]
                    answer.cursor = frame.get("cursor", answer.cursor)
                    answer.states.append(frame["state"])
            case "end":
                self._end(frame)

    def _snapshot(self, frame: dict[str, Any]) -> None:
        self.snapshots += 1
        self.cursor = frame["cursor"]
        self.messages = {}
        for message in frame["messages"]:
            self.messages[message["id"]] = message
        for shown in frame["responses"]:
            answer = self.answers.setdefault(shown["response"], Answer())
            answer.ends = 0
            answer.text, answer.reasoning = shown["text"], shown.get("reasoning", "")
            answer.cursor, answer.state, answer.attempt = shown["cursor"], shown["state"], shown["attempt"]

    def _settle(self, message: dict[str, Any]) -> None:
        if message["id"] in self.messages and self.messages[message["id"]] != message:
            raise ProtocolBrokenError(f"message {message['id']} arrived twice with different content")
        self.messages[message["id"]] = message
        answer = self.answers.get(message.get("response", ""))
        if answer is not None:
            if not answer.ends:
                raise ProtocolBrokenError(f"{message['response']} settled before its end")
            if answer.ends and answer.text != message["text"]:
                raise ProtocolBrokenError(f"the settled text of {message['response']} differs from the shown text")

    def _open(self, response: str) -> Answer:
        answer = self.answers.setdefault(response, Answer())
        if answer.ends:
            raise ProtocolBrokenError(f"a frame for {response} arrived after its end")
        return answer

    def _end(self, frame: dict[str, Any]) -> None:
        answer = self._open(frame["response"])
        answer.ends += 1
        answer.cursor, answer.reason, answer.state = frame["cursor"], frame["reason"], "ended"
        answer.retryable, answer.error, answer.usage = frame.get("retryable"), frame.get("error"), frame.get("usage")
        if "chars" in frame and frame["chars"] != len(answer.text):
            raise ProtocolBrokenError(f"{frame['response']} has {len(answer.text)} characters, not {frame['chars']}")
