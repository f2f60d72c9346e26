"""The built-in demo provider: needs no key, gives the same answer to the same question, and fails on command.

Commands in a chat reproduce the behaviour of real providers: `/help` lists them.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections import OrderedDict
from itertools import count, islice
from typing import TYPE_CHECKING

from workers.providers import Event, Finish, FinishReason, Provider, ProviderError, Reasoning, Request, Text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

FLOOD_TOKENS = 20_000
LONG_TOKENS = 4_000
MAX_TOKENS = 100_000
TOKENS_BEFORE_FAILURE = 40
"""Tokens of an answer that fails or stops by command."""

MAX_REJECTED = 1_000
"""Responses that `/busy` remembers as rejected."""

HELP = """## What this demo can do

Ask anything, or begin a message with a command:

| command | what happens |
|---|---|
| `/fail` | the answer fails in the middle and can be retried |
| `/fail early` | the request is rejected before the first token |
| `/busy` | the model is busy at first and answers one second later |
| `/stall` | some tokens, then no more |
| `/silent` | no tokens at all |
| `/flood` | 20,000 tokens as fast as possible |
| `/long`, `/long N` | 4,000 tokens, or N, at the usual rate |
| `/think` | reasoning before the answer |
| `/refuse` | the model declines to answer |
| `/limit` | the answer ends at its length limit |
| `/drop` | the stream ends without a terminal event |
| `/help` | this list |
"""

REFUSAL = "I would rather not answer that. **Ask me something else**, and I will do my best. 🙏"

THOUGHT = (
    "The question is short, so the answer may be too. First what matters, then an example, then what to try next. "
)

# Every body contains each kind of Markdown that a chat widget renders, and text outside of Latin scripts and of the
# first Unicode plane, which exposes bytes that are split in the middle of a character.
BODIES = (
    """## A short answer 🌊

> {question}

Think of an answer as a **log**: words are only ever *appended*, and every reader has a cursor. A reader that
disconnects resumes at its cursor, so nothing is lost and nothing is read twice.

1. The writer appends a token.
2. The log gives it a number, such as `1-42`.
3. Each reader asks for *everything after* its own number.

| part | keeps | costs |
|---|---|---|
| writer | the next number | one append |
| reader | the last number | one integer |

```python
def read(log, cursor):
    return log[cursor:], len(log)
```

The Japanese word is 記録 (*kiroku*), a record. More in [the standard](https://html.spec.whatwg.org/#server-sent-events).
That is all there is to it, and it works the same for one reader and for a thousand. ✅
""",
    """## Let me take that apart 🔍

> {question}

There are **three** things to look at, and the second is the one most people miss:

- what you *have*: the parts that are already there
- what you **need**: less than you would think, 少即是多
- what it costs to be wrong, which is often `0`

### An example

```javascript
const needed = wishes.filter((wish) => wish.matters);
console.log(`${needed.length} of ${wishes.length}`);
```

| step | takes | worth it |
|---|---:|:---:|
| write it down | 5 min | 👍 |
| sleep on it | 8 h | 👍👍 |
| begin again | 1 day | 🤔 |

Begin with the smallest step that could show you to be wrong, and look at what happens. If nothing does, go on.
There is a longer version in [an essay](https://example.com/small-steps), but you have read the best part of it.
""",
    """## It depends, and here is on what ⚖️

> {question}

The honest answer has a *condition*. **If it must be fast**, choose the simple way. **If it must last**, choose the
way that somebody else can read, which is usually the same one.

| | simple | clever |
|---|---|---|
| to write | `1 h` | `1 d` |
| to read | `1 min` | `1 h` |
| to change | 😌 | 😱 |

1. Try the simple way first.
2. Measure it, in the units that you will be asked about.
3. Change *one* thing, then measure again.

```sh
time ./answer --question "why?" | tail -n 1
```

A Korean proverb says 시작이 반이다: well begun is half done. If you would like to know more, start with
[this page](https://example.com/it-depends) and come back with what you found.
""",
)

# A piece is up to eight letters with the space before them, up to three digits, a run of white space, or any other
# character: similar to the tokens of a language model.
TOKEN = re.compile(r" ?[A-Za-z]{1,8}|\d{1,3}|\s+|.", re.ASCII)


def tokens(text: str) -> list[str]:
    """Split text into pieces as a model would stream them; joined, they are the text again."""
    return TOKEN.findall(text)


def answer(prompt: str) -> str:
    """Return the complete answer to a prompt; it is always the same.

    For a command that fails, it is the answer without the failure.
    """
    return "".join(_pieces(prompt))


def connect(rate: float) -> Provider:
    """Return the provider; `rate` is in tokens per second, 0 means one token per event loop iteration.

    Raises ValueError for a negative rate.
    """
    if rate < 0:
        raise ValueError(f"the demo rate is in tokens per second: {rate} is negative, use 0 or more")
    rejected: OrderedDict[str, None] = OrderedDict()

    async def provider(request: Request) -> AsyncGenerator[Event, None]:
        prompt = request.messages[-1]["content"] if request.messages else ""
        command, argument = _command(prompt)
        if command == "/fail" and argument == "early":
            raise ProviderError("demo_refused", "The demo rejected this request on command.", retryable=False)
        if command == "/busy" and request.response not in rejected:
            rejected[request.response] = None
            if len(rejected) > MAX_REJECTED:
                rejected.popitem(last=False)
            raise ProviderError("demo_busy", "The demo is busy on command.", retryable=True, retry_after=1.0)
        if command == "/silent":
            await _wait_forever()

        pace = _Pace(0 if command == "/flood" else rate)
        reasoning, written = 0, 0
        if command == "/think":
            for piece in tokens(THOUGHT * 3):
                await pace.next()
                reasoning += 1
                yield Reasoning(piece)
        reason: FinishReason = "refused" if command == "/refuse" else "complete"
        limit = request.max_tokens
        if command in _LIMITED:
            limit = TOKENS_BEFORE_FAILURE if limit is None else min(limit, TOKENS_BEFORE_FAILURE)
        for piece in _pieces(prompt):
            if written == limit:
                reason = "length"
                break
            await pace.next()
            written += 1
            yield Text(piece)
        match command:
            case "/fail":
                raise ProviderError("demo_failed", "The demo failed on command.", retryable=True)
            case "/stall":
                await _wait_forever()
            case "/drop":
                raise ProviderError("provider_incomplete", "The answer ended before it was complete.", retryable=True)
        usage = {"input_tokens": _input_tokens(request), "output_tokens": reasoning + written}
        if reasoning:
            usage["reasoning_tokens"] = reasoning
        yield Finish(reason, usage)

    return provider


_LIMITED = frozenset({"/fail", "/stall", "/drop", "/limit"})


def _command(prompt: str) -> tuple[str, str]:
    """The first two words of a prompt that begins with a slash, or two empty strings."""
    words = prompt.split(maxsplit=2) if prompt.lstrip().startswith("/") else []
    return (words[0] if words else ""), (words[1] if len(words) > 1 else "")


def _pieces(prompt: str) -> Iterator[str]:
    command, argument = _command(prompt)
    match command:
        case "/help":
            return iter(tokens(HELP))
        case "/refuse":
            return iter(tokens(REFUSAL))
        case "/flood":
            return islice(_numbered(), FLOOD_TOKENS)
        case "/long":
            wanted = int(argument) if argument.isascii() and argument.isdigit() else LONG_TOKENS
            return islice(_numbered(), min(wanted, MAX_TOKENS))
    question = " ".join(prompt.split())
    body = BODIES[zlib.crc32(question.encode("utf-8", "surrogatepass")) % len(BODIES)]
    if len(question) > 200:
        question = question[:200] + "…"
    return iter(tokens(body.replace("{question}", question)))


def _numbered() -> Iterator[str]:
    # Numbered, so that missing or duplicated text is visible.
    for number in count(1):
        yield from tokens(f"**{number}.** Word after word, and none of them lost: 一つも失わない. 🧵\n\n")


class _Pace:
    """Schedules tokens relative to the first one, so that a delayed token does not delay later ones."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._started_at = asyncio.get_running_loop().time()
        self._index = 0

    async def next(self) -> None:
        # A sleep of 0 seconds still lets other tasks run.
        due = self._started_at + self._index / self._rate if self._rate else 0.0
        self._index += 1
        await asyncio.sleep(due - asyncio.get_running_loop().time())


async def _wait_forever() -> None:
    await asyncio.Event().wait()


def _input_tokens(request: Request) -> int:
    texts = [request.instructions or "", *(message["content"] for message in request.messages)]
    return sum(len(tokens(text)) for text in texts)
