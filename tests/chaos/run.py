"""Runs one schedule in a deployment: all actions and faults, then a settling phase, then the checks."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from gateway.streams import keys, log_entries, response_log
from tests.chaos.checker import Checker, GroundTruth, Question, Verdict, ViewerState
from tests.chaos.deployment import LEASE_S, Deployment, Instance
from tests.chaos.faults import inject
from tests.chaos.provider import ENDS, Script
from tests.chaos.schedule import ACTIONS, FAULTS, OTHERS, PROVIDERS, Schedule
from tests.chaos.viewer import Viewer

if TYPE_CHECKING:
    from tests.chaos.schedule import Action, ConversationPlan, Fault
    from tests.provider_server import Call

STUCK_AFTER_S: Final = 25.0
"""Seconds after the last fault within which every answer must end: two sweeps, leases and answers."""

EVERY_REASON: Final = frozenset({"complete", "length", "refused", "filtered", "tool_calls", "failed", "guarded"})

SETTLE_S: Final = 2.0
"""Seconds after which a redirected gateway has re-read the store."""

MAX_STALL_S: Final = LEASE_S / 3
"""Longest stall of this machine in seconds that cannot expire the lease of a live worker."""


@dataclass
class RunResult:
    """Result of a run."""

    schedule: Schedule
    verdicts: list[Verdict]
    injected: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    questions: int = 0
    reconnects: int = 0
    seconds: float = 0.0
    settle_s: float = 0.0
    """Seconds from the last fault to the last end."""
    max_stall_s: float = 0.0
    evidence: str = ""


class Run:
    """One execution of a schedule."""

    def __init__(
        self,
        deployment: Deployment,
        script: Script,
        schedule: Schedule,
        *,
        state: type[ViewerState] | None = None,
        timeout: float = STUCK_AFTER_S,
    ) -> None:
        """`state`: class of viewer states; `timeout`: seconds after the last fault within which everything must end."""
        self._timeout = timeout
        self.deployment = deployment
        self.script = script
        self.schedule = schedule
        self.checker = Checker(expects_marked_text=deployment.expects_marked_text, state=state)
        self.questions: list[Question] = []
        self.conversations: dict[str, list[Viewer]] = {}
        self.injected: Counter[str] = Counter()
        self.rng = random.Random(schedule.seed)
        self._started = time.monotonic()
        self._unique = secrets.token_hex(4)

    def now(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._started

    async def at(self, time_s: float) -> None:
        """Wait until a time of the schedule."""
        await asyncio.sleep(max(0.0, time_s - self.now()))

    def keys(self) -> list[str]:
        """Return the text keys of all questions."""
        return [question.text_key for question in self.questions]

    def calls(self) -> list[Call]:
        """Return the provider calls of this run."""
        return [call for key in self.keys() for call in self.script.calls.get(key, ())]

    def caller(self, call: Call) -> Instance:
        """Return the worker that made a call."""
        return self.deployment.workers[int(call.headers["openai-organization"].rpartition("-")[2])]

    async def some_response(self, target: int) -> str | None:
        """Return one of the open responses; None if there is none within two seconds."""
        deadline = self.now() + 2.0
        while self.now() < deadline:
            found = [name for viewers in self.conversations.values() for name in viewers[0].state.open]
            if found:
                return found[target % len(found)]
            await asyncio.sleep(0.02)
        return None

    async def play(self) -> RunResult:
        """Run the schedule, check it and restore the deployment. Not safe to cancel: faults may stay in effect."""
        deployment, schedule = self.deployment, self.schedule
        await deployment.fix_clocks()
        deployment.max_stall_s = 0.0
        deployment.problems()
        if schedule.lossy:
            await deployment.wait_for_replica()
        self._started = time.monotonic()
        cpu_waits = deployment.cpu_waits()
        tasks = [self._run_conversation(number, each) for number, each in enumerate(schedule.conversations)]
        tasks += [self._fault(fault) for fault in schedule.faults]
        try:
            await asyncio.gather(*tasks)
            await deployment.restore()
            settling_since = self.now()
            await self._wait_until_settled()
            settle_s = self.now() - settling_since
            deployment.max_stall_s = max(
                deployment.max_stall_s,
                *(now - cpu_waits.get(pid, 0.0) for pid, now in deployment.cpu_waits().items()),
                0.0,
            )
            verdicts = self.checker.finish(await self._ground_truth())
            verdicts += [Verdict("forbidden", "a process", "output", line) for line in deployment.problems()]
            evidence = self._evidence() if verdicts else ""
        finally:
            viewers = [viewer for viewers in self.conversations.values() for viewer in viewers]
            await asyncio.gather(*(viewer.close() for viewer in viewers))
            for key in self.keys():
                self.script.forget(key)
        return RunResult(
            schedule=schedule,
            verdicts=verdicts,
            injected=self.injected,
            tokens=self.checker.tokens,
            questions=len(self.questions),
            reconnects=sum(max(0, viewer.reconnects - 1) for viewer in viewers),
            seconds=self.now(),
            settle_s=settle_s,
            max_stall_s=deployment.max_stall_s,
            evidence=evidence,
        )

    async def _fault(self, fault: Fault) -> None:
        await self.at(fault.at)
        self.injected[FAULTS[fault.kind].number + " " + fault.kind] += 1
        await inject(self, fault)

    async def _run_conversation(self, number: int, plan: ConversationPlan) -> None:
        name = f"chaos-{self._unique}-{number}"
        viewers = [
            Viewer(
                self.checker.add_viewer(f"{name}/{index}", name),
                self.deployment.urls,
                viewer.gateway,
                random.Random(self.rng.random()),
            )
            for index, viewer in enumerate(plan.viewers)
        ]
        self.conversations[name] = viewers
        if len(viewers) >= 50:
            self.injected[f"{OTHERS['crowd']} crowd"] += 1
        tasks: list[Any] = []
        for viewer, viewer_plan in zip(viewers, plan.viewers, strict=True):
            tasks.append(self._run_viewer(viewer, viewer_plan.joins_at, viewer_plan.actions))
        stops = any(action.kind == "stop" for viewer_plan in plan.viewers for action in viewer_plan.actions)
        tasks += [self._ask(name, number, index, stops=stops) for index in range(len(plan.messages))]
        await asyncio.gather(*tasks)

    async def _run_viewer(self, viewer: Viewer, joins_at: float, actions: tuple[Action, ...]) -> None:
        await self.at(joins_at)
        viewer.start()
        for action in actions:
            await self.at(max(action.at, joins_at))
            self.injected[f"{ACTIONS[action.kind]} viewer: {action.kind}"] += 1
            match action.kind:
                case "cut":
                    viewer.cut()
                case "sleep":
                    await viewer.sleep(action.duration, cut=True)
                case "slow":
                    await viewer.sleep(action.duration, cut=False)
                case "move":
                    viewer.move()
                case "reload":
                    viewer.reload()
                case "stop":
                    await viewer.stop()
                case "rewatch":
                    await viewer.rewatch()

    async def _ask(self, name: str, number: int, index: int, *, stops: bool) -> None:
        plan = self.schedule.conversations[number].messages[index]
        text_key = f"{plan.pieces}.{self._unique}{number}x{index}"
        reasons = set(ENDS[plan.provider])
        reasons |= {"stopped"} if stops else set()
        reasons |= {"failed"} if self.schedule.fails else set()
        if not self.deployment.expects_marked_text:
            reasons |= EVERY_REASON
        key = f"k-{text_key}"
        question = Question(
            conversation=name,
            key=key,
            text_key=text_key,
            reasons=frozenset(reasons),
            calls=1 + self.schedule.extra_calls,
            rejectable=plan.conflict,
        )
        self.script.expect(text_key, plan)
        self.questions.append(question)
        if plan.provider not in ("finish", "thinks") and self.deployment.expects_marked_text:
            self.injected[f"{PROVIDERS[plan.provider]} provider: {plan.provider}"] += 1
        await self.at(plan.at)
        viewers = self.conversations[name][: plan.copies]
        if plan.copies > 1:
            self.injected[f"{OTHERS['copies']} concurrent submits of one key"] += 1
        for viewer in viewers:
            await viewer.ask(key, text_key, self.deployment.model)
        if plan.conflict:
            self.injected[f"{OTHERS['conflict']} one key with another text"] += 1
            await viewers[-1].ask(key, text_key + " another text", self.deployment.model)

    async def _wait_until_settled(self) -> None:
        """Wait until nothing is pending, or until the timeout."""
        started = self.now()
        # Gateways redirected to another store show its history only after they have subscribed and read it.
        earliest, deadline = started + (SETTLE_S if self.schedule.lossy else 0.0), started + self._timeout
        viewers = [viewer for viewers in self.conversations.values() for viewer in viewers]
        while self.now() < deadline:
            if self.now() >= earliest and all(viewer.settled for viewer in viewers):
                done = {key for viewer in viewers for key in (*viewer.accepted, *viewer.rejected)}
                if (
                    all(question.key in done for question in self.questions)
                    and await self._histories_agree()
                    and self._accepted_is_shown()
                ):
                    return
            await asyncio.sleep(0.05)

    async def _histories_agree(self) -> bool:
        """Return whether all viewers of each conversation have the same history; last frames may be in transit."""
        return all(
            len({tuple(viewer.state.messages) for viewer in viewers}) == 1 for viewers in self.conversations.values()
        )

    def _accepted_is_shown(self) -> bool:
        """Return whether every accepted response is shown, unless the store is lossy."""
        return self.schedule.lossy or all(
            viewer.state.has_response(response)
            for viewers in self.conversations.values()
            for viewer in viewers
            for response in viewer.accepted.values()
        )

    async def _ground_truth(self) -> GroundTruth:
        late = {name: await self._join_late(name) for name in self.conversations}
        histories = {name: list(state.messages.values()) for name, state in late.items()}
        responses = [
            message["response"] for history in histories.values() for message in history if "response" in message
        ]
        if not self.deployment.expects_marked_text:
            responses = []
        logs = await asyncio.to_thread(lambda: {response: self._log(response) for response in responses})
        viewers = [viewer for viewers in self.conversations.values() for viewer in viewers]
        extra = 1 if self.deployment.max_stall_s > MAX_STALL_S else 0
        questions = [replace(question, calls=question.calls + extra) for question in self.questions]
        return GroundTruth(
            questions=questions,
            answers={viewer.state.name: viewer.accepted for viewer in viewers},
            rejected={viewer.state.name: viewer.rejected for viewer in viewers},
            histories=histories,
            logs=logs,
            sent={key: self.script.sent(key) for key in self.keys()},
            shortened=frozenset(name for name, state in late.items() if state.shortened),
            lossy=self.schedule.lossy,
        )

    async def _join_late(self, name: str) -> ViewerState:
        """Return the state of a viewer that joins last."""
        late = Viewer(Checker().add_viewer(f"{name}/late", name), self.deployment.urls, 0, self.rng)
        late.start()
        try:
            async with asyncio.timeout(10.0):
                while not late.state.subscribed:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            self.checker.report("stuck", late.state.name, "history", "a new viewer receives nothing")
        finally:
            await late.close()
        return late.state

    def _log(self, response: str) -> str | None:
        entries = response_log.entries(self.deployment.primary.command("XRANGE", keys.log(response), "-", "+"))
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
        lines = [self.deployment.output()]
        for name, state in self.checker.viewers.items():
            lines.append(f"{name}: cursor {state.cursor}, messages {list(state.messages)}")
            for response, shown in state.shown.items():
                end = shown.end and {
                    key: value for key, value in shown.end.items() if key in ("reason", "chars", "error")
                }
                lines.append(
                    f"    {response}: {shown.cursor} {len(shown.text)} characters, resets {shown.resets}, end {end}, "
                    f"settled {shown.settled}"
                )
        lines += [f"{key}: calls sent {self.script.sent(key)}" for key in self.keys()]
        return "\n".join(lines)
