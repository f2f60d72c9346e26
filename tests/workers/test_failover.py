"""Failover: an answer whose provider fails goes on at the next target, in the same response and after the same text.

With the real SDKs, against a server that speaks both APIs and continues what it is given, or repeats its end first.
"""

from __future__ import annotations

import importlib
import random
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway.streams import jobs, log_entries, response_log
from gateway.streams.log_entries import End, Waiting
from gateway.streams.store.store import open_store
from tests.gateway.streams.steps import Conversation
from tests.provider_server import ProviderServer, Scenario
from workers import retry_policy
from workers.batch import BatchingInterval
from workers.breakers import Breakers
from workers.generation import Generation
from workers.history_reader import HistoryReader
from workers.options import GenerationOptions
from workers.prompt import CONTINUE_INSTRUCTION
from workers.providers import Served
from workers.ticks import SharedTick

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gateway.streams.store.store import Store
    from tests.provider_server import Call, Ending

pytestmark = pytest.mark.live

TEXT: Final = """The sky is blue because air scatters short waves more than long ones. 😀 That is Rayleigh scattering.

```python
def sky(hour: int) -> str:
    # At dusk the light has a longer way: the blue is gone before it arrives.
    return "red" if hour in (6, 20) else "blue"
```

| colour | wavelength |
|---|---|
| violet | 380 nm |
| red | 700 nm |

So the sun itself looks a little yellow, and at the horizon it looks red; from the moon it is white. 🌒"""

USAGE: Final = {"input_tokens": 7, "output_tokens": 40, "cached_tokens": 2}

ENDINGS: Final[list[Ending]] = ["unfinished", "cut", "error"]


def units(text: str) -> list[str]:
    """Return the UTF-16 units of a text: an emoji is two halves."""
    data = text.encode("utf-16-le")
    return [data[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(data), 2)]


def pieces(text: str, rng: random.Random) -> tuple[str, ...]:
    """Return a text in pieces of random length, which may divide a character."""
    halves, out = units(text), []
    while halves:
        size = rng.randint(1, 6)
        out.append("".join(halves[:size]))
        halves = halves[size:]
    return tuple(out)


class Model:
    """What the fake provider answers: the rest of TEXT after what it is given, with failures at random points."""

    def __init__(self, rng: random.Random, *, repeats: bool, failures: int) -> None:
        self._rng = rng
        self._repeats = repeats
        self.failures = failures
        self.joined = True
        """Whether each text to continue was a beginning of TEXT."""
        self.usage: Counter[str] = Counter()
        """What the calls have told of their usage."""

    def script(self, call: Call) -> Scenario:
        messages = [message for message in call.body["messages"] if message["role"] != "system"]
        given = next((m["content"] for m in messages if m["role"] == "assistant"), "")
        if not TEXT.startswith(given):
            self.joined = False
            return Scenario(("",))
        rest = TEXT[len(given) :]
        if given and self._repeats:
            words = given.split(" ")
            rest = " ".join(words[-self._rng.randint(2, 30) :]) + rest
        shown = pieces(rest, self._rng)
        if self.failures == 0:
            self.usage.update(USAGE)
            return Scenario(shown, escape=True, usage=USAGE)
        self.failures -= 1
        count = self._rng.choice([0, 0, 1, *range(2, len(shown))]) if len(shown) > 2 else 0
        if count == 0 and self._rng.random() < 0.5:
            return Scenario(status=self._rng.choice([429, 500, 503, 529]))
        if call.path.endswith("/messages"):
            # Anthropic tells the tokens of the prompt first, OpenAI all of them last.
            self.usage.update(USAGE | {"output_tokens": 1})
        return Scenario(shown[:count], escape=True, ending=self._rng.choice(ENDINGS), usage=USAGE)


@pytest.fixture(scope="module")
def running() -> Iterator[ProviderServer]:
    with ProviderServer() as server:
        yield server


@pytest.fixture
async def targets(running: ProviderServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, Any]]:
    monkeypatch.setenv("SSL_CERT_DIR", "/")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{running.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", running.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    monkeypatch.setattr(retry_policy, "FIRST_PAUSE_S", 0.01)
    running.reset()
    connected = {name: importlib.import_module(f"workers.providers.{name}").connect("m") for name in SDKS}
    yield connected
    for provider in connected.values():
        await provider.aclose()


SDKS: Final = ("openai", "anthropic")
OPTIONS: Final = GenerationOptions(
    lease_s=5.0,
    max_attempts=3,
    answer_timeout_s=600.0,
    recovery="continue",
    batching_interval_s=0.001,
    store_patience_s=60.0,
    provider_patience_s=60.0,
    max_calls=12,
    max_call_tokens=0,
    first_token_timeout_s=30.0,
    idle_timeout_s=30.0,
    max_answer_bytes=1_000_000,
    max_prompt_characters=100_000,
)


async def answer(store: Store, targets: list[Served], number: int = 0, *, max_tokens: int | None = None) -> list[bytes]:
    """Generate one answer; return the entries of its log."""
    conversation = Conversation(store, f"c{number}")
    await jobs.prepare(store)
    response = (await conversation.ask(max_tokens=max_tokens)).response
    tick = SharedTick(BatchingInterval(0.001))
    job = await conversation.take("w1")
    await Generation(store, job, "w1", {"default": targets}, Breakers(store), OPTIONS, tick, HistoryReader(store)).run()
    return [value for _, value in await response_log.read(store, response)]


def text_of(entries: list[bytes]) -> str:
    bodies = b"".join(log_entries.text_body(value) for value in entries if value[:1] == log_entries.TEXT)
    return log_entries.unescape(bodies)


def end_of(entries: list[bytes]) -> End:
    end = log_entries.decode_response_entry(entries[-1])
    assert isinstance(end, End)
    return end


@pytest.mark.parametrize("repeats", [False, True], ids=["continues", "repeats"])
async def test_answer_is_whole_after_failures_at_random_points(
    running: ProviderServer, targets: dict[str, Any], *, repeats: bool
) -> None:
    store = await open_store("memory://")
    whole = 0
    trials = 100
    for seed in range(trials):
        rng = random.Random(seed)
        first = [Served(targets[name], "m", name, f"host{seed}", rng.random() < 0.5) for name in rng.sample(SDKS, 2)]
        model = Model(rng, repeats=repeats, failures=rng.randint(1, 3))
        failures = model.failures
        running.reset()
        running.script = model.script
        entries = await answer(store, first, seed)
        kinds = [value[:1] for value in entries]
        # What was shown is never taken back: there is one attempt, and its text only grows.
        assert kinds.count(log_entries.START) == 1
        assert len(running.calls) == failures + 1 or not model.joined
        end = end_of(entries)
        assert end.reason == "complete", seed
        assert end.usage == model.usage, seed
        whole += text_of(entries) == TEXT
    running.script = None
    assert whole >= (0.95 * trials if repeats else trials)
    await store.close()


async def test_seam_is_marked_in_the_log(running: ProviderServer, targets: dict[str, Any]) -> None:
    store = await open_store("memory://")
    running.script = Model(random.Random(3), repeats=False, failures=0).script
    broken = Scenario(("The sky ",), ending="error", error="overloaded_error")
    running.scenarios = {}
    first = running.script

    def script(call: Call) -> Scenario:
        return broken if len(running.calls) == 1 else first(call)

    running.script = script
    both = [Served(targets["openai"], "m", "openai"), Served(targets["anthropic"], "m", "anthropic")]
    entries = await answer(store, both)
    running.script = None
    seams = [entry for value in entries if isinstance(entry := log_entries.decode_response_entry(value), Waiting)]
    assert seams == [Waiting(0.0, "provider_overloaded")]
    assert running.calls[1].body["messages"][-2:] == [
        {"role": "assistant", "content": "The sky "},
        {"role": "user", "content": CONTINUE_INSTRUCTION},
    ]
    assert text_of(entries) == TEXT
    await store.close()


async def test_refused_target_leaves_no_trace(running: ProviderServer, targets: dict[str, Any]) -> None:
    store = await open_store("memory://")
    running.reset()
    running.script = lambda _: Scenario(status=401) if len(running.calls) == 1 else None
    entries = await answer(
        store, [Served(targets["openai"], "m", "openai"), Served(targets["anthropic"], "m", "anthropic")]
    )
    running.script = None
    assert text_of(entries) == "Hello, world!"
    assert log_entries.WAITING not in [value[:1] for value in entries]
    await store.close()


async def test_a_limit_of_tokens_holds_for_all_calls_together(running: ProviderServer, targets: dict[str, Any]) -> None:
    """The first provider is cut off before it reports its usage: the text counts, four bytes a token."""
    store = await open_store("memory://")
    running.reset()
    running.script = lambda _: Scenario((TEXT[:80],), ending="cut") if len(running.calls) == 1 else None
    both = [Served(targets["openai"], "m", "openai"), Served(targets["anthropic"], "m", "anthropic")]
    await answer(store, both, max_tokens=50)
    running.script = None
    assert [call.body["max_tokens"] for call in running.calls] == [50, 30]
    await store.close()


async def test_sum_of_counts_that_an_entry_cannot_hold_is_cut_off(
    running: ProviderServer, targets: dict[str, Any]
) -> None:
    store = await open_store("memory://")
    running.reset()
    most = {"input_tokens": log_entries.MAX_COUNT, "output_tokens": 1}
    running.script = lambda call: Scenario(
        ("Hi",), ending="error" if call.path.endswith("/messages") else "finish", usage=most
    )
    both = [Served(targets["anthropic"], "m", "anthropic"), Served(targets["openai"], "m", "openai")]
    end = end_of(await answer(store, both))
    running.script = None
    assert end.reason == "complete"
    assert end.usage is not None
    assert end.usage["input_tokens"] == log_entries.MAX_COUNT
    await store.close()


@pytest.mark.parametrize(("first", "retryable"), [(401, False), (503, True)])
async def test_failed_answer_is_retryable_if_one_target_may_succeed_later(
    running: ProviderServer, targets: dict[str, Any], first: int, *, retryable: bool
) -> None:
    store = await open_store("memory://")
    running.reset()
    running.script = lambda call: Scenario(status=401 if call.path.endswith("/messages") else first)
    both = [Served(targets["openai"], "m", "openai"), Served(targets["anthropic"], "m", "anthropic")]
    end = end_of(await answer(store, both))
    running.script = None
    assert (end.reason, end.retryable) == ("failed", retryable)
    await store.close()


async def test_answer_of_a_single_target_fails_with_its_text(running: ProviderServer, targets: dict[str, Any]) -> None:
    store = await open_store("memory://")
    running.reset(Scenario(("Hello",), ending="error"))
    entries = await answer(store, [Served(targets["openai"], "m", "openai")])
    assert text_of(entries) == "Hello"
    assert (end_of(entries).reason, end_of(entries).retryable) == ("failed", True)
    assert len(running.calls) == 1
    await store.close()


@pytest.mark.parametrize("piece", ["", " \n"])
async def test_blank_answer_is_no_answer(running: ProviderServer, targets: dict[str, Any], piece: str) -> None:
    store = await open_store("memory://")
    running.reset(Scenario((piece,), reasoning=("Hm",)))
    entries = await answer(store, [Served(targets["anthropic"], "m", "anthropic")])
    end = end_of(entries)
    assert (end.reason, end.error and end.error.code, end.retryable) == ("failed", "empty", True)
    assert end.usage == {"input_tokens": 7, "output_tokens": 4, "cached_tokens": 2}
    await store.close()
