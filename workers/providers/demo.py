"""The provider that is built in: it needs no key, answers the same question with the same words, and fails on command.

Everything that a real provider does to a gateway can be tried in a chat: `/help` lists the commands.
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
BROKEN_TOKENS = 40
"""How many tokens come before an answer that is told to break off does."""

REMEMBERED = 1_000
"""How many responses `/busy` remembers having turned away."""

HELP = """## What this demo can do

Ask anything, or begin a message with a command:

| command | what happens |
|---|---|
| `/fail` | the answer breaks off in the middle, and may be retried |
| `/fail early` | the request is refused before the first token |
| `/busy` | the model is busy at first, and answers a second later |
| `/stall` | some tokens, then silence for ever |
| `/silent` | never a token |
| `/flood` | 20,000 tokens as fast as they go |
| `/long`, `/long N` | 4,000 tokens, or N, at the usual rate |
| `/think` | the model thinks aloud before it answers |
| `/refuse` | the model declines to answer |
| `/limit` | the answer ends at its length limit |
| `/drop` | the stream ends without saying so |
| `/help` | this list |
"""

REFUSAL = "I would rather not answer that. **Ask me something else**, and I will do my best. 🙏"

THOUGHT = (
    "The question is short, so the answer may be too. First what matters, then an example, then what to try next. "
)

# Every body holds each kind of Markdown that a chat widget has to show, and text outside of the first plane and of
# Latin scripts, which is what goes wrong first when bytes are cut.
BODIES = (
    """## A short answer 🌊

> {question}

Think of an answer as a **log**: words are only ever *appended*, and every reader keeps a place in it. Whoever leaves
comes back to the same place, so nothing is lost and nothing is read twice.

1. The writer appends a token.
2. The log gives it a number, such as `1-42`.
3. Each reader asks for *everything after* its own number.

| who | keeps | costs |
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

# A piece is a word with the space before it, cut after eight letters, or up to three digits, or one run of white space,
# or any one character: about what a tokenizer of a language model makes of such text.
TOKEN = re.compile(r" ?[A-Za-z]{1,8}|\d{1,3}|\s+|.", re.ASCII)


def tokens(text: str) -> list[str]:
    """Split text into pieces as a model would stream them; joined, they are the text again."""
    return TOKEN.findall(text)


def answer(prompt: str) -> str:
    """Return the whole text that a prompt is answered with, the same every time.

    For a command it is the text of the answer when nothing breaks it off.
    """
    return "".join(_pieces(prompt))


def connect(rate: float) -> Provider:
    """Return the provider; `rate` is in tokens per second, and 0 is as fast as the event loop goes round.

    Raises ValueError for a negative rate.
    """
    if rate < 0:
        raise ValueError(f"the demo's rate is in tokens per second and cannot be {rate}")
    turned_away: OrderedDict[str, None] = OrderedDict()

    async def provider(request: Request) -> AsyncGenerator[Event, None]:
        prompt = request.messages[-1]["content"] if request.messages else ""
        command, argument = _command(prompt)
        if command == "/fail" and argument == "early":
            raise ProviderError("demo_refused", "The demo was told to refuse this request.", retryable=False)
        if command == "/busy" and request.response not in turned_away:
            turned_away[request.response] = None
            if len(turned_away) > REMEMBERED:
                turned_away.popitem(last=False)
            raise ProviderError("demo_busy", "The demo was told to be busy.", retryable=True, retry_after=1.0)
        if command == "/silent":
            await _silence()

        pace = _Pace(0 if command == "/flood" else rate)
        thought, written = 0, 0
        if command == "/think":
            for piece in tokens(THOUGHT * 3):
                await pace.next()
                thought += 1
                yield Reasoning(piece)
        reason: FinishReason = "refused" if command == "/refuse" else "complete"
        bound = request.max_tokens
        if command in _BREAKING:
            bound = BROKEN_TOKENS if bound is None else min(bound, BROKEN_TOKENS)
        for piece in _pieces(prompt):
            if written == bound:
                reason = "length"
                break
            await pace.next()
            written += 1
            yield Text(piece)
        match command:
            case "/fail":
                raise ProviderError("demo_failed", "The demo was told to fail.", retryable=True)
            case "/stall":
                await _silence()
            case "/drop":
                raise ProviderError(
                    "provider_incomplete", "The answer broke off before it was finished.", retryable=True
                )
        usage = {"input_tokens": _input_tokens(request), "output_tokens": thought + written}
        if thought:
            usage["reasoning_tokens"] = thought
        yield Finish(reason, usage)

    return provider


_BREAKING = frozenset({"/fail", "/stall", "/drop", "/limit"})


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
    # Numbers, so that a person and a test can see what is missing or doubled in so much text.
    for number in count(1):
        yield from tokens(f"**{number}.** Word after word, and none of them lost: 一つも失わない. 🧵\n\n")


class _Pace:
    """The times at which tokens are due, all counted from the first: a late one does not make those after it late."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._began = asyncio.get_running_loop().time()
        self._index = 0

    async def next(self) -> None:
        # Sleeping for no time still lets everything else in the event loop have its turn.
        due = self._began + self._index / self._rate if self._rate else 0.0
        self._index += 1
        await asyncio.sleep(due - asyncio.get_running_loop().time())


async def _silence() -> None:
    await asyncio.Event().wait()


def _input_tokens(request: Request) -> int:
    texts = [request.instructions or "", *(message["content"] for message in request.messages)]
    return sum(len(tokens(text)) for text in texts)
