"""Scripted behaviour of the fake provider: its reply to each call, and how much it sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.chaos import marked_text
from tests.provider_server import Ending, Scenario
from workers.prompt import CONTINUE_INSTRUCTION, SEPARATOR

if TYPE_CHECKING:
    from tests.chaos.schedule import MessagePlan, Provider
    from tests.provider_server import Call, Reason

ENDINGS: Final[dict[Provider, Ending]] = {
    "error": "error",
    "cut": "cut",
    "unfinished": "unfinished",
    "unannounced": "unannounced",
    "malformed": "malformed",
    "silence": "silence",
    "pings": "pings",
}
REASONS: Final[dict[Provider, Reason]] = {"refused": "refused", "filtered": "filtered", "length": "length"}
REFUSALS: Final[dict[Provider, tuple[int, ...]]] = {"busy": (429,), "down": (500, 529)}
ENDS: Final[dict[Provider, frozenset[str]]] = {
    **dict.fromkeys(("finish", "busy", "down", "flood", "thinks"), frozenset({"complete"})),
    **dict.fromkeys(("error", "cut", "unfinished", "malformed", "silence", "pings", "refuses"), frozenset({"failed"})),
    # The finish reason was sent before the connection closed, so both ends are correct.
    "unannounced": frozenset({"complete", "failed"}),
    "refused": frozenset({"refused"}),
    "filtered": frozenset({"filtered"}),
    "length": frozenset({"length"}),
}
"""Expected end reasons per provider behaviour, without other faults."""


class Script:
    """Replies of the fake provider and its calls, by the key of the requested answer."""

    def __init__(self) -> None:
        self._plans: dict[str, MessagePlan] = {}
        self._refused: dict[str, int] = {}
        self._origins: dict[int, tuple[int, int]] = {}
        """Of each call that continues a text: the call that began it, and the pieces that were shown."""
        self.calls: dict[str, list[Call]] = {}
        """Calls that got a stream, which are the billed ones."""

    def expect(self, key: str, plan: MessagePlan) -> None:
        """Reply to prompts that start with `key` as `plan` says."""
        self._plans[key] = plan
        self.calls[key] = []

    def forget(self, key: str) -> None:
        """Remove a key and its calls."""
        for call in self.calls.get(key, ()):
            self._origins.pop(id(call), None)
        for known in (self._plans, self._refused, self.calls):
            known.pop(key, None)

    def __call__(self, call: Call) -> Scenario | None:
        """See `ProviderServer.script`."""
        partial = _partial(call)
        source = marked_text.source(partial)
        # Questions without an answer are joined to the next one: the last one is asked.
        asked = call.prompt.rpartition(SEPARATOR)[2]
        key = source[0] if source is not None else asked.partition(" ")[0]
        plan = self._plans.get(key)
        if plan is None:
            return None
        if plan.provider == "refuses":
            return Scenario(status=400, error="invalid_request_error")
        refusals = REFUSALS.get(plan.provider, ())
        if (refused := self._refused.get(key, 0)) < len(refusals):
            self._refused[key] = refused + 1
            headers: dict[str, Any] = {"retry-after": "1"} if refusals[refused] == 429 else {}
            return Scenario(status=refusals[refused], headers=headers)
        number = len(self.calls[key])
        self.calls[key].append(call)
        if source is not None:
            return self._continue(call, key, source[1], partial, plan)
        return Scenario(
            pieces=marked_text.pieces(key, number),
            reasoning=marked_text.pieces(f"8.{key.partition('.')[2]}z", number) if plan.provider == "thinks" else (),
            delay=plan.delay,
            reason=REASONS.get(plan.provider, "complete"),
            ending=ENDINGS.get(plan.provider, "finish"),
        )

    def _continue(self, call: Call, key: str, origin: int, partial: str, plan: MessagePlan) -> Scenario:
        """Reply with the rest of the text of an earlier call, of which a worker that died has shown a part."""
        whole = marked_text.whole(key, origin)
        # Another text shows that the product changed what it has: the whole text repeated is then found as a defect.
        shown = len(partial) if whole.startswith(partial) else 0
        rest: list[str] = []
        begin = 0
        for piece in marked_text.pieces(key, origin):
            end = begin + len(piece)
            if end > shown:
                rest.append(piece[max(0, shown - begin) :])
            begin = end
        if not rest and ENDS[plan.provider] == {"failed"}:
            # Failures before the first token are repeated for as long as the patience of a worker lasts.
            return Scenario(status=400, error="invalid_request_error")
        self._origins[id(call)] = (origin, len(marked_text.pieces(key, origin)) - len(rest))
        return Scenario(
            pieces=tuple(rest),
            delay=plan.delay,
            reason=REASONS.get(plan.provider, "complete"),
            ending=ENDINGS.get(plan.provider, "finish"),
        )

    def sent(self, key: str) -> list[int]:
        """Return the number of pieces that each call for a key sent, as an upper bound.

        What a call continues counts for the call that began the text.
        """
        # The last piece of an interrupted call may have been sent but not counted.
        calls = self.calls.get(key, ())
        sent = [call.sent + (not call.finished) for call in calls]
        for number, call in enumerate(calls):
            if (origin := self._origins.get(id(call))) is not None:
                first, shown = origin
                sent[first] = max(sent[first], shown + sent[number])
        return sent


def _partial(call: Call) -> str:
    """Return the part of an answer that a call asks to continue; '' for a call that asks for a whole one."""
    messages = call.body.get("messages", [])
    if len(messages) > 2 and messages[-1]["content"] == CONTINUE_INSTRUCTION and messages[-2]["role"] == "assistant":
        return str(messages[-2]["content"])
    return ""
