"""The provider's side of a run: what it says to each call, and what it had said in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.chaos import words
from tests.provider_server import Ending, Scenario

if TYPE_CHECKING:
    from tests.chaos.schedule import Provider, Turn
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
    # It had given its reason.
    "unannounced": frozenset({"complete", "failed"}),
    "refused": frozenset({"refused"}),
    "filtered": frozenset({"filtered"}),
    "length": frozenset({"length"}),
}
"""How the answer of each kind of provider ends, where nothing else goes wrong."""


class Script:
    """What the fake provider does: its calls by the key of the words that are asked for."""

    def __init__(self) -> None:
        self._turns: dict[str, Turn] = {}
        self._refused: dict[str, int] = {}
        self.calls: dict[str, list[Call]] = {}
        """Those that were given a stream, which is what is paid for."""

    def expect(self, key: str, turn: Turn) -> None:
        """Answer what asks for `key`, whatever stands behind it, as `turn` says."""
        self._turns[key] = turn
        self.calls[key] = []

    def forget(self, key: str) -> None:
        """Nobody asks for `key` any more."""
        for known in (self._turns, self._refused, self.calls):
            known.pop(key, None)

    def __call__(self, call: Call) -> Scenario | None:
        """See `ProviderServer.script`."""
        key = call.prompt.partition(" ")[0]
        turn = self._turns.get(key)
        if turn is None:
            return None
        if turn.provider == "refuses":
            return Scenario(status=400, error="invalid_request_error")
        refusals = REFUSALS.get(turn.provider, ())
        if (refused := self._refused.get(key, 0)) < len(refusals):
            self._refused[key] = refused + 1
            headers: dict[str, Any] = {"retry-after": "1"} if refusals[refused] == 429 else {}
            return Scenario(status=refusals[refused], headers=headers)
        number = len(self.calls[key])
        self.calls[key].append(call)
        return Scenario(
            pieces=words.pieces(key, number),
            reasoning=words.pieces(f"8.{key.partition('.')[2]}z", number) if turn.provider == "thinks" else (),
            delay=turn.delay,
            reason=REASONS.get(turn.provider, "complete"),
            ending=ENDINGS.get(turn.provider, "finish"),
        )

    def sent(self, key: str) -> list[int]:
        """How many pieces each call for a key was sent."""
        # The last one of a call that was cut off may have gone out uncounted.
        return [call.sent + (not call.finished) for call in self.calls.get(key, ())]
