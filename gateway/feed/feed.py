"""What is published, and what is read to repair it, into the hub."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import SpanKind
from redis.exceptions import RedisError

from gateway import metrics
from gateway.hub import Tally
from gateway.streams import history_log, keys, log_entries, response_log, tracing
from gateway.streams.reconciliation import differing_logs
from gateway.streams.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from gateway.frame_codec import Frame
    from gateway.hub import Hub
    from gateway.room import Position, Room, Viewer
    from gateway.streams.store.store import Store
    from gateway.streams.store.subscription import Subscription

logger = logging.getLogger(__name__)

COMPARE_EVERY: Final = 1.0
"""Seconds. A lost publish heals within about this time."""

COMPARE_IDLE_EVERY: Final = 15
"""Comparisons between two of a conversation in which nothing is being answered."""

AWAY_AFTER: Final = 1.5
"""Seconds that a comparison may take until those who follow an answer are told that it waits."""

KEEP_EMPTY: Final = 30.0
"""Seconds that a conversation nobody watches stays in memory, for those who come back."""

MAX_READS: Final = 4
"""Logs of a partition that are read at once. By partition, because a node of a cluster that hangs holds its reads."""

MAX_SUBMITTED: Final = 10_000
ACKNOWLEDGE_WITHIN: Final = 5.0
FIRST_PAUSE: Final = 0.05
MAX_PAUSE: Final = 0.25
"""Seconds between two tries to listen. What came meanwhile is shown this much after the store's return."""

GATEWAYS: Final = b"tw:gateways"
MAX_STARVED: Final = 3
"""Comparisons in a row that find what should have been published, before the subscription is made anew."""


class Feed:
    """One subscription of this process, and the comparisons that make up for what it loses."""

    def __init__(self, store: Store, hub: Hub, memory: int) -> None:
        """`memory`: bytes of logs that nobody watches which may be held."""
        self._store = store
        self._hub = hub
        self._memory = memory
        self._subscription: Subscription | None = None
        self._channels: dict[bytes, Room] = {}
        self._acknowledged: dict[bytes, asyncio.Future[None]] = {}
        self._entering: dict[str, asyncio.Task[None]] = {}
        self._loading: dict[str, asyncio.Lock] = {}
        self._emptied: dict[str, float] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reading = tuple(asyncio.Semaphore(MAX_READS) for _ in range(keys.PARTITIONS))
        self._flushing = False
        self._starved = 0
        self._away: set[int] = set()
        """Partitions of which the store does not answer; their viewers know."""
        self._partitions: tuple[dict[str, Room], ...] = tuple({} for _ in range(keys.PARTITIONS))
        self._messages = 0
        """Heard since the subscription was last judged."""
        self._different = 0
        """Logs found to differ from their copies since then."""
        self._compared = 0
        """Logs compared with them since then."""
        self._heard_at = 0.0
        """When what the next flush gives first came; 0.0 where nothing has."""
        self.received = self.delivered = 0.0
        """Entries a second, of late."""
        self._counted_at = 0.0
        self._submitted: dict[str, float] = {}
        """Responses that were asked for here, oldest first, and when."""

    async def run(self) -> None:
        """Listen and compare until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._look_after())
            for partition in range(keys.PARTITIONS):
                group.create_task(self._compare(partition))

    async def enter(self, name: str, named: Mapping[str, str], after: str | None = None) -> Room:
        """The room of a conversation with its logs read, those of the responses `named` too, as far as a client that
        comes with these cursors has been given them; raises StoreUnavailableError.

        However many come at once, the logs are read once.
        """
        room = self._hub.open(name)
        if not room.ready:
            entering = self._entering.get(name)
            if entering is None:
                entering = self._entering[name] = asyncio.create_task(self._open(room))
                entering.add_done_callback(partial(self._entered, name))
            await asyncio.shield(entering)
        missing = room.unknown(named, after)
        if self._emptied.pop(name, None) is not None:
            # Nobody compared it while nobody watched, and a failover need not have cut the subscription.
            missing |= {"", *room.turns.open()}
        if missing:
            room.wanted |= missing
            await self._load(room)
        return room

    def begin(self, room: Room, after: str | None, named: Mapping[str, str]) -> tuple[list[Frame], Position]:
        """As `Room.begin`, and counted."""
        frames, position = room.begin(after, named)
        if after is None:
            metrics.WATCHES.labels("new").inc()
            return frames, position
        cursor = log_entries.parse_history_id(after)
        if cursor is None or position.turns != cursor:
            metrics.WATCHES.labels("unknown" if cursor is None else "lost").inc()
            return frames, position
        metrics.WATCHES.labels("resumed").inc()
        missed = room.turns.tail.seq - cursor.seq
        for response, at in position.responses:
            replica = room.responses.get(response)
            if at is not None and response in named and replica is not None and replica.tail is not None:
                missed += replica.tail.seq - max(at.seq, 0)
        metrics.REPLAYED.inc(max(missed, 0))
        return frames, position

    def _entered(self, name: str, task: asyncio.Task[None]) -> None:
        del self._entering[name]
        if not task.cancelled():
            # Those who waited have it, too; but they may all be gone.
            task.exception()

    def full(self, viewer: Viewer) -> None:
        """A viewer can take no more; see `Hub.full`."""
        self._hub.full(viewer)

    def ready(self, viewer: Viewer) -> None:
        """A viewer can take more; see `Hub.ready`."""
        self._hub.ready(viewer)
        if self._hub.dirty:
            self.schedule()

    def submitted(self, response: str, asked_at: float) -> None:
        """Measure how long it takes until the first text of a response is given, from `asked_at` (of the loop) on."""
        self._submitted[response] = asked_at
        if len(self._submitted) > MAX_SUBMITTED:
            del self._submitted[next(iter(self._submitted))]

    def schedule(self) -> None:
        """Flush the hub once in this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        try:
            self._hub.flush()
        except Exception as error:
            # One room's fault, which is not to be the others'; they are still dirty.
            _report("a room could not be flushed", error)
            self.schedule()
        if self._heard_at or self._hub.spoken:
            self._measure()
        for room in self._hub.lacking:
            self._repair_soon(room)

    def _measure(self) -> None:
        now = asyncio.get_running_loop().time()
        heard_at = self._heard_at or now
        if self._heard_at:
            metrics.ADDED_DELAY.observe(now - self._heard_at)
            self._heard_at = 0.0
        while self._hub.spoken:
            replica = self._hub.spoken.pop()
            asked_at = self._submitted.pop(replica.response, None)
            if asked_at is not None:
                metrics.FIRST_TOKEN.observe(now - asked_at)
            if replica.queued is not None and replica.queued.trace is not None:
                about = {tracing.RESPONSE: replica.response, tracing.CONVERSATION: replica.queued.conversation}
                ended_at = time.time_ns()
                begun_at = ended_at - int((now - heard_at) * 1e9)
                tracing.begin("first frame", SpanKind.INTERNAL, replica.queued.trace, about, begun_at=begun_at).end(
                    ended_at
                )

    def _repair_soon(self, room: Room) -> None:
        if room.wanted and room.ready:
            self._run(self._try_loading(room))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, room: Room) -> None:
        channel = keys.feed(room.name).encode()
        self._channels[channel] = room
        self._partitions[keys.partition_of(room.name)][room.name] = room
        # Subscribed and acknowledged first, read then: what comes between is in both, and ignored the second time.
        await self._subscribe(channel)
        room.wanted.add("")
        await self._load(room)
        room.ready = True

    async def _subscribe(self, channel: bytes) -> None:
        future = self._acknowledged.get(channel)
        if future is None:
            future = self._acknowledged[channel] = asyncio.get_running_loop().create_future()
        if self._subscription is not None:
            self._subscription.subscribe(channel)
        try:
            async with asyncio.timeout(ACKNOWLEDGE_WITHIN):
                await asyncio.shield(future)
        except TimeoutError:
            raise StoreError("the store did not acknowledge a subscription") from None

    async def _load(self, room: Room) -> None:
        lock = self._loading.setdefault(room.name, asyncio.Lock())
        async with lock:
            while room.wanted:
                # Taken out first: what is wanted again while the log is read is read again.
                name = room.wanted.pop()
                try:
                    async with self._reading[keys.partition_of(room.name)]:
                        await self._read(room, name)
                except BaseException:
                    room.wanted.add(name)
                    raise
        if self._hub.dirty:
            self.schedule()

    async def _read(self, room: Room, name: str) -> None:
        if name:
            last = self._hub.ask_response(room, name)
            if last is None:
                metrics.READS.labels("response").inc()
            self._hub.load_response(room, name, last, await response_log.read(self._store, name, last))
        else:
            turn = self._hub.ask_turns(room)
            if turn is None:
                metrics.READS.labels("conversation").inc()
            self._hub.load_turns(room, turn, await history_log.read(self._store, room.name, turn))

    async def _try_loading(self, room: Room) -> None:
        try:
            await self._load(room)
        except StoreError as error:
            # The next comparison tries again.
            logger.warning("a log could not be read: %s", error, extra={"conversation": room.name})
        except Exception as error:
            _report(f"a log of conversation {room.name} could not be taken", error)

    async def _listen(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                subscription = await self._store.subscribe(self._heard, self._subscribed)
            except (RedisError, OSError) as error:
                logger.warning("the store could not be listened to (%s)", type(error).__name__)
            else:
                try:
                    self._subscription = subscription
                    # A channel of no meaning, so that there is always one.
                    subscription.subscribe(GATEWAYS, *self._channels)
                    metrics.SUBSCRIPTIONS.inc()
                    await subscription.closed
                    logger.warning("the subscription was lost")
                    pause = pause if self._starved else FIRST_PAUSE
                finally:
                    self._subscription = None
                    try:
                        await subscription.close()
                    except (RedisError, OSError):
                        # It was being given up.
                        pass
            self._starved = 0
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE)

    def _heard(self, channel: bytes, data: bytes) -> None:
        room = self._channels.get(channel)
        if room is None:
            return
        self._messages += 1
        try:
            self._hub.take(room, log_entries.parse_published(data))
        except Exception as error:
            _report(f"what was published of conversation {room.name} could not be taken", error)
            self._hub.distrust(room)
        if not self._flushing:
            self.schedule()
        if not self._heard_at:
            self._heard_at = asyncio.get_running_loop().time()

    def _subscribed(self, channel: bytes) -> None:
        future = self._acknowledged.pop(channel, None)
        if future is not None and not future.done():
            future.set_result(None)
        room = self._channels.get(channel)
        if room is not None and room.ready:
            # Subscribed anew: what was published in between is only in the logs.
            room.wanted.update({"", *room.responses})
            self._repair_soon(room)

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(COMPARE_EVERY)
            await self._judge_subscription()
            self._drop_empty()

    async def _compare(self, partition: int) -> None:
        # Each at its own moment of the second, so that no stream waits for the comparison of all; each by itself, so
        # that a server of a cluster that does not answer keeps nobody from the others.
        moment = COMPARE_EVERY * partition / keys.PARTITIONS
        for number in count():
            await asyncio.sleep(COMPARE_EVERY - (asyncio.get_running_loop().time() - moment) % COMPARE_EVERY)
            try:
                await self._compare_once(partition, number)
            except StoreError as error:
                logger.warning("the store could not be compared with (%s)", type(error).__name__)

    async def _compare_once(self, partition: int, number: int) -> None:
        compared: list[tuple[Room, str]] = []
        lasts: list[tuple[str, str]] = []
        for index, room in enumerate(self._partitions[partition].values()):
            room.forget()
            if not room.ready or not room.watched:
                continue
            self._repair_soon(room)
            for name in self._hub.compare(room, idle=(index + number) % COMPARE_IDLE_EVERY == 0):
                last = self._hub.ask_response(room, name) if name else self._hub.ask_turns(room)
                compared.append((room, name))
                lasts.append((keys.log(name) if name else keys.history(room.name), str(last or "")))
        for position in await self._answered(partition, lasts):
            room, name = compared[position]
            room.wanted.add(name)
            self._different += 1
            metrics.REPAIRS.inc()
            about = {"conversation": room.name, "response": name or None}
            logger.info("a copy differs from the store's log and is mended", extra=about)
            self._repair_soon(room)

    async def _answered(self, partition: int, lasts: Sequence[tuple[str, str]]) -> list[int]:
        """See `differing_logs`; meanwhile viewers are told whether the store answers."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        asked = asyncio.create_task(differing_logs(self._store, lasts))
        try:
            # Twice: where this loop itself was held up, the answer may be here already.
            for patience in (AWAY_AFTER, AWAY_AFTER / 10):
                await asyncio.wait((asked,), timeout=patience)
            if not asked.done():
                self._store_is(partition, away=True)
            differing = await asked
        finally:
            asked.cancel()
        # Nothing to ask is as good an answer: everything was heard of. One that comes late is none yet.
        if loop.time() - asked_at < AWAY_AFTER / 2:
            self._store_is(partition, away=False)
        self._compared += len(lasts)
        return differing

    def _store_is(self, partition: int, *, away: bool) -> None:
        if away is (partition in self._away):
            return
        if away:
            logger.warning("the store does not answer, and answers wait")
            self._away.add(partition)
        else:
            self._away.discard(partition)
        try:
            self._hub.tell_states(self._partitions[partition].values(), away=away)
        except Exception as error:
            _report("viewers could not be told of the store", error)

    async def _judge_subscription(self) -> None:
        # An entry may have been read before it was heard; that nothing at all is heard is what counts.
        if self._messages or (self._compared and not self._different):
            self._starved = 0
        elif self._different:
            self._starved += 1
        metrics.MESSAGES.inc(self._messages)
        self._messages = self._different = self._compared = 0
        self._count()
        if self._starved >= MAX_STARVED and self._subscription is not None:
            await self._subscription.close()

    def _count(self) -> None:
        rooms = self._hub.rooms.values()
        metrics.ROOMS.set(len(rooms))
        metrics.VIEWERS.set(sum(room.viewers for room in rooms))
        metrics.BEHIND.set(sum(len(room.behind) for room in rooms))
        metrics.OPEN_LOGS.set(sum(replica.end is None for room in rooms for replica in room.responses.values()))
        tally, self._hub.tally = self._hub.tally, Tally()
        now = asyncio.get_running_loop().time()
        self.received = round(tally.received / (now - self._counted_at), 1)
        self.delivered = round(tally.delivered / (now - self._counted_at), 1)
        self._counted_at = now
        metrics.RECEIVED.inc(tally.received)
        metrics.DELIVERED.inc(tally.delivered)
        metrics.FRAMES.inc(tally.frames)
        metrics.GAPS.inc(tally.gaps)

    def _drop_empty(self) -> None:
        now = asyncio.get_running_loop().time()
        empty = {room.name for room in self._hub.rooms.values() if not room.watched and not self._busy(room)}
        self._emptied = {name: self._emptied.get(name, now) for name in empty}
        held = sum(self._hub.rooms[name].size for name in empty)
        for name, since in list(self._emptied.items()):
            room = self._hub.rooms[name]
            # Not at first sight: whoever is just entering has not sat down yet.
            if now - since > KEEP_EMPTY or (held > self._memory and now > since):
                held -= room.size
                del self._emptied[name]
                self._drop(room)

    def _busy(self, room: Room) -> bool:
        """Tell whether somebody is about to enter a room."""
        lock = self._loading.get(room.name)
        return room.name in self._entering or (lock is not None and lock.locked())

    def _drop(self, room: Room) -> None:
        channel = keys.feed(room.name).encode()
        self._hub.close(room)
        self._channels.pop(channel, None)
        self._partitions[keys.partition_of(room.name)].pop(room.name, None)
        self._loading.pop(room.name, None)
        if (future := self._acknowledged.pop(channel, None)) is not None:
            future.cancel()
        if self._subscription is not None:
            self._subscription.unsubscribe(channel)


def _report(what: str, error: Exception) -> None:
    # The frames without the message: that may hold what somebody wrote.
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s (%s)\n%s", what, type(error).__name__, where)
