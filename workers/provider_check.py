"""One short call of each target, for `tokenwire doctor --providers`."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from workers.providers import Finish, ProviderError, Request, connect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.streams.targets import Target
    from workers.providers import Served

TIMEOUT_S: Final = 30.0
ANSWER_TOKENS: Final = 64
"""The limit of the answer: enough for a word, also of a model that reasons first."""

_CONNECTION: Final = "check the address, the name server, the firewall and the proxy variables"
_ADVICE: Final = {
    "provider_refused_key": "check the key, and that it belongs to this address",
    "provider_unknown_model": "check the name of the model, and that an address of openai ends with /v1",
    "provider_quota": "add credit at the provider",
    "provider_bad_request": "check the parameters of the target and what the model supports",
    "provider_unreachable": _CONNECTION,
    "provider_timeout": _CONNECTION,
    "provider_silent": "check whether the server has loaded the model",
    "provider_incomplete": "check that the address is the one of the API: it answers, but not as a provider",
    "provider_malformed": "check that the address is the one of the API: it answers, but not as a provider",
    "provider_misconfigured": "check the key, the address and the proxy variables",
}
"""What to do about a failure, by its code."""

_PASSING: Final = ("provider_rate_limited", "provider_overloaded")
"""Failures of a target that is set up correctly."""


class Result(NamedTuple):
    """The result of one call."""

    alias: str
    mark: Literal["ok", "WARN", "FAIL"]
    text: str


async def check(targets: Mapping[str, Sequence[Target]], timeout_s: float = TIMEOUT_S) -> list[Result]:
    """Call each different target once, all at the same time; return the results in the order of the aliases.

    Safe to cancel.
    """
    different: list[Target] = []
    for each in targets.values():
        different += [target for target in each if target not in different]
    names = [", ".join(alias for alias, each in sorted(targets.items()) if target in each) for target in different]
    calls = [_check(alias, target, timeout_s) for alias, target in zip(names, different, strict=True)]
    return list(await asyncio.gather(*calls))


async def _check(alias: str, target: Target, timeout_s: float) -> Result:
    if target.provider == "python":
        return Result(alias, "ok", f"{target.name}: not called, because a generator is your own code")
    try:
        served = connect(target, demo_rate=0)
    except ValueError as error:
        return Result(alias, "FAIL", str(error))
    started = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            reason = await _call(served, target)
    except TimeoutError:
        return Result(alias, "FAIL", f"{served.label}: no answer within {timeout_s:g} s; {_ADVICE['provider_silent']}")
    except ProviderError as error:
        status = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        advice = _ADVICE.get(error.code, "try again later, and look at the provider's status page")
        mark: Literal["WARN", "FAIL"] = "WARN" if error.code in _PASSING else "FAIL"
        return Result(alias, mark, f"{served.label}: {error.code}{status}: {advice}")
    finally:
        if (close := getattr(served.provider, "aclose", None)) is not None:
            await close()
    return Result(alias, "ok", f"{served.label} answers in {time.monotonic() - started:.1f} s ({reason})")


async def _call(served: Served, target: Target) -> str:
    limit = ANSWER_TOKENS if target.max_tokens is None else min(ANSWER_TOKENS, target.max_tokens)
    request = Request(served.model, [{"role": "user", "content": "Reply with the word ok."}], max_tokens=limit)
    reason = "provider_incomplete"
    async with aclosing(served.provider(request)) as events:
        async for event in events:
            if isinstance(event, Finish):
                reason = event.reason
    return reason
