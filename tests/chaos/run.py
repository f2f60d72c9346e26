"""One schedule in a house: everybody plays their part, everything calms down, and the checker is asked."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from gateway.streams import keys, log_entries, response_log
from tests.chaos.checker import Checker, Question, Truth, Verdict, Watcher
from tests.chaos.faults import inject
from tests.chaos.house import LEASE, House, Member
from tests.chaos.provider import ENDS, Script
from tests.chaos.schedule import FAULTS, HABITS, OTHERS, PROVIDERS, Schedule
from tests.chaos.viewer import Viewer

if TYPE_CHECKING:
    from tests.chaos.schedule import Conversation, Doing, Fault
    from tests.provider_server import Call

STUCK_AFTER: Final = 25.0
"""Seconds after the last fault within which everything has its end: a sweep, a lease and an answer, twice."""

EVERY_REASON: Final = frozenset({"complete", "length", "refused", "filtered", "tool_calls", "failed", "guarded"})

SETTLES: Final = 2.0
"""Seconds after which whoever was led to another store has read what it has."""

TOO_SLOW: Final = LEASE / 3
"""Seconds that this machine may stand still before a worker may be taken for dead that is not."""


@dataclass
class Outcome:
    """What came of a run."""

    schedule: Schedule
    verdicts: list[Verdict]
    injected: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    questions: int = 0
    reconnects: int = 0
    seconds: float = 0.0
    calm: float = 0.0
    """Seconds from the last fault to the last end."""
    lag: float = 0.0
    evidence: str = ""


class Run:
    """A schedule that is being carried out."""

    def __init__(
        self,
        house: House,
        script: Script,
        schedule: Schedule,
        *,
        watcher: type[Watcher] | None = None,
        patience: float = STUCK_AFTER,
    ) -> None:
        """`watcher`: what its viewers are; `patience`: seconds after the last fault in which all has to end."""
        self._patience = patience
        self.house = house
        self.script = script
        self.schedule = schedule
        self.checker = Checker(speaks_words=house.speaks_words, kind=watcher)
        self.questions: list[Question] = []
        self.conversations: dict[str, list[Viewer]] = {}
        self.injected: Counter[str] = Counter()
        self.chance = random.Random(schedule.seed)
        self._begun = time.monotonic()
        self._unique = secrets.token_hex(4)

    def now(self) -> float:
        """Seconds from the beginning."""
        return time.monotonic() - self._begun

    async def at(self, moment: float) -> None:
        """Wait for a moment of the schedule."""
        await asyncio.sleep(max(0.0, moment - self.now()))

    def keys(self) -> list[str]:
        """The keys of words of all questions."""
        return [question.words for question in self.questions]

    def calls(self) -> list[Call]:
        """The provider's calls for this run."""
        return [call for key in self.keys() for call in self.script.calls.get(key, ())]

    def caller(self, call: Call) -> Member:
        """The worker that made a call."""
        return self.house.workers[int(call.headers["openai-organization"].rpartition("-")[2])]

    async def some_response(self, which: int) -> str | None:
        """One of the responses that are being written; None where there is none for two seconds."""
        deadline = self.now() + 2.0
        while self.now() < deadline:
            found = [name for viewers in self.conversations.values() for name in viewers[0].watcher.open]
            if found:
                return found[which % len(found)]
            await asyncio.sleep(0.02)
        return None

    async def play(self) -> Outcome:
        """Carry it out; what went wrong is in the outcome, and the house is whole again."""
        house, schedule = self.house, self.schedule
        await house.set_clocks()
        house.lag = 0.0
        house.problems()
        if schedule.lossy:
            await house.followed()
        self._begun = time.monotonic()
        waited = house.waited()
        parts = [self._converse(number, each) for number, each in enumerate(schedule.conversations)]
        parts += [self._fault(fault) for fault in schedule.faults]
        try:
            await asyncio.gather(*parts)
            await house.mend()
            calm_at = self.now()
            await self._calm()
            calm = self.now() - calm_at
            house.lag = max(house.lag, *(now - waited.get(pid, 0.0) for pid, now in house.waited().items()), 0.0)
            verdicts = self.checker.finish(await self._truth())
            verdicts += [Verdict("forbidden", "a process", "output", line) for line in house.problems()]
            evidence = self._evidence() if verdicts else ""
        finally:
            viewers = [viewer for viewers in self.conversations.values() for viewer in viewers]
            await asyncio.gather(*(viewer.close() for viewer in viewers))
            for key in self.keys():
                self.script.forget(key)
        return Outcome(
            schedule,
            verdicts,
            self.injected,
            self.checker.tokens,
            len(self.questions),
            sum(max(0, viewer.reconnects - 1) for viewer in viewers),
            self.now(),
            calm,
            house.lag,
            evidence,
        )

    async def _fault(self, fault: Fault) -> None:
        await self.at(fault.at)
        self.injected[FAULTS[fault.kind].number + " " + fault.kind] += 1
        await inject(self, fault)

    async def _converse(self, number: int, plan: Conversation) -> None:
        name = f"chaos-{self._unique}-{number}"
        viewers = [
            Viewer(
                self.checker.watcher(f"{name}/{index}", name),
                self.house.urls,
                viewer.gateway,
                random.Random(self.chance.random()),
            )
            for index, viewer in enumerate(plan.viewers)
        ]
        self.conversations[name] = viewers
        if len(viewers) >= 50:
            self.injected[f"{OTHERS['crowd']} crowd"] += 1
        parts: list[Any] = []
        for viewer, part in zip(viewers, plan.viewers, strict=True):
            parts.append(self._attend(viewer, part.joins, part.does))
        stops = any(doing.habit == "stop" for part in plan.viewers for doing in part.does)
        parts += [self._ask(name, number, index, stops=stops) for index in range(len(plan.turns))]
        await asyncio.gather(*parts)

    async def _attend(self, viewer: Viewer, joins: float, does: tuple[Doing, ...]) -> None:
        await self.at(joins)
        viewer.start()
        for doing in does:
            await self.at(max(doing.at, joins))
            self.injected[f"{HABITS[doing.habit]} viewer: {doing.habit}"] += 1
            match doing.habit:
                case "cut":
                    viewer.cut()
                case "sleep":
                    await viewer.sleep(doing.lasts, cut=True)
                case "slow":
                    await viewer.sleep(doing.lasts, cut=False)
                case "move":
                    viewer.move()
                case "reload":
                    viewer.reload()
                case "stop":
                    await viewer.stop()
                case "rewatch":
                    await viewer.rewatch()

    async def _ask(self, name: str, number: int, index: int, *, stops: bool) -> None:
        turn = self.schedule.conversations[number].turns[index]
        words_key = f"{turn.pieces}.{self._unique}{number}x{index}"
        reasons = set(ENDS[turn.provider])
        reasons |= {"stopped"} if stops else set()
        reasons |= {"failed"} if self.schedule.fails else set()
        if not self.house.speaks_words:
            reasons |= EVERY_REASON
        key = f"k-{words_key}"
        question = Question(name, key, words_key, frozenset(reasons), 1 + self.schedule.costs, refusable=turn.conflict)
        self.script.expect(words_key, turn)
        self.questions.append(question)
        if turn.provider not in ("finish", "thinks") and self.house.speaks_words:
            self.injected[f"{PROVIDERS[turn.provider]} provider: {turn.provider}"] += 1
        await self.at(turn.at)
        viewers = self.conversations[name][: turn.copies]
        if turn.copies > 1:
            self.injected[f"{OTHERS['copies']} the same submit at once"] += 1
        for viewer in viewers:
            await viewer.ask(key, words_key, self.house.model)
        if turn.conflict:
            self.injected[f"{OTHERS['conflict']} the same key, another text"] += 1
            await viewers[-1].ask(key, words_key + " or something else", self.house.model)

    async def _calm(self) -> None:
        """Wait until nobody waits for anything, or for as long as may be waited."""
        begun = self.now()
        # Those that were led to another store learn of its history when they have subscribed and read.
        least, deadline = begun + (SETTLES if self.schedule.lossy else 0.0), begun + self._patience
        viewers = [viewer for viewers in self.conversations.values() for viewer in viewers]
        while self.now() < deadline:
            if self.now() >= least and all(viewer.settled for viewer in viewers):
                done = {key for viewer in viewers for key in (*viewer.accepted, *viewer.refused)}
                if all(question.key in done for question in self.questions) and await self._same() and self._shown():
                    return
            await asyncio.sleep(0.05)

    async def _same(self) -> bool:
        """Whether all viewers of each conversation have the same history; the last frames may be under way."""
        return all(
            len({tuple(viewer.watcher.messages) for viewer in viewers}) == 1 for viewers in self.conversations.values()
        )

    def _shown(self) -> bool:
        """Whether everybody is shown what was accepted of theirs, where the store has not lost it."""
        return self.schedule.lossy or all(
            viewer.watcher.knows(response)
            for viewers in self.conversations.values()
            for viewer in viewers
            for response in viewer.accepted.values()
        )

    async def _truth(self) -> Truth:
        late = {name: await self._come_last(name) for name in self.conversations}
        histories = {name: list(watcher.messages.values()) for name, watcher in late.items()}
        responses = [
            message["response"] for history in histories.values() for message in history if "response" in message
        ]
        if not self.house.speaks_words:
            responses = []
        logs = await asyncio.to_thread(lambda: {response: self._log(response) for response in responses})
        viewers = [viewer for viewers in self.conversations.values() for viewer in viewers]
        extra = 1 if self.house.lag > TOO_SLOW else 0
        questions = [
            Question(q.conversation, q.key, q.words, q.reasons, q.calls + extra, q.refusable) for q in self.questions
        ]
        return Truth(
            questions,
            {viewer.watcher.name: viewer.accepted for viewer in viewers},
            {viewer.watcher.name: viewer.refused for viewer in viewers},
            histories,
            logs,
            {key: self.script.sent(key) for key in self.keys()},
            shortened=frozenset(name for name, watcher in late.items() if watcher.shortened),
            lossy=self.schedule.lossy,
        )

    async def _come_last(self, name: str) -> Watcher:
        """What somebody who comes last is given."""
        late = Viewer(Checker().watcher(f"{name}/late", name), self.house.urls, 0, self.chance)
        late.start()
        try:
            async with asyncio.timeout(10.0):
                while not late.watcher.watches:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            self.checker.blame("stuck", late.watcher.name, "history", "a new viewer is given nothing")
        finally:
            await late.close()
        return late.watcher

    def _log(self, response: str) -> str | None:
        entries = response_log.entries(self.house.primary.command("XRANGE", keys.log(response), "-", "+"))
        if not entries or entries[0][1][:1] != log_entries.QUEUED:
            return None
        text = b""
        for _, value in entries:
            if value[:1] == log_entries.START:
                text = b""
            elif value[:1] == log_entries.TEXT:
                text += value[1:]
        return log_entries.unescape(text)

    def _evidence(self) -> str:
        lines = [self.house.output()]
        for name, watcher in self.checker.watchers.items():
            lines.append(f"{name}: cursor {watcher.cursor}, messages {list(watcher.messages)}")
            for response, shown in watcher.shown.items():
                end = shown.end and {
                    key: value for key, value in shown.end.items() if key in ("reason", "chars", "error")
                }
                lines.append(
                    f"    {response}: {shown.cursor} {len(shown.text)} characters, resets {shown.resets}, end {end}, "
                    f"settled {shown.settled}"
                )
        lines += [f"{key}: calls sent {self.script.sent(key)}" for key in self.keys()]
        return "\n".join(lines)
