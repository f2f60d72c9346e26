"""Limits of tokens: the rate that is asked before a signature is checked, and whose rate it is."""

from __future__ import annotations

from gateway.auth import ANONYMOUS, EXPIRED, Identity
from gateway.rate_limits import BURST_S, RateLimits, subject_of
from gateway.token_limits import MAX_TOKENS, TokenLimits

RATE = 2.0
BURST = int(RATE * BURST_S)
ADDRESS = "192.0.2.1"
ANN = Identity("ann", 0.0, ())


def exhausted(limits: TokenLimits) -> TokenLimits:
    """Use up the rate of the address, with tokens that are not valid."""
    for _ in range(BURST):
        assert limits.admit("wrong", ADDRESS, 0.0) is None
        limits.checked("wrong", EXPIRED, ADDRESS, 0.0)
    assert limits.admit("wrong", ADDRESS, 0.0) == 1 / RATE
    return limits


def test_tokens_that_are_not_valid_are_checked_up_to_the_rate_of_their_address() -> None:
    limits = exhausted(TokenLimits(RateLimits(RATE)))
    assert limits.admit("new", ADDRESS, 0.0) is not None
    assert limits.admit(None, ADDRESS, 0.0) is not None
    assert limits.admit("wrong", "192.0.2.2", 0.0) is None
    assert limits.admit("wrong", "127.0.0.1", 0.0) is None
    assert limits.admit("wrong", ADDRESS, 1 / RATE) is None


def test_valid_tokens_take_nothing_from_their_address() -> None:
    limits = TokenLimits(RateLimits(RATE))
    for number in range(10 * BURST):
        assert limits.admit(f"{number}", ADDRESS, 0.0) is None
        limits.checked(f"{number}", ANN, ADDRESS, 0.0)
    exhausted(limits)


def test_token_that_was_valid_lately_is_admitted_at_an_exhausted_address() -> None:
    limits = TokenLimits(RateLimits(RATE))
    for _ in range(2):
        assert limits.admit("good", ADDRESS, 0.0) is None
        limits.checked("good", ANN, ADDRESS, 0.0)
    assert limits.subject("good") == subject_of(ANN, "")
    exhausted(limits)
    assert limits.admit("good", ADDRESS, 0.0) is None
    # It expires: from now on it counts as any other.
    limits.checked("good", EXPIRED, ADDRESS, 0.0)
    assert limits.subject("good") is None
    assert limits.admit("good", ADDRESS, 0.0) is not None


def test_without_authentication_no_token_is_remembered() -> None:
    limits = TokenLimits(RateLimits(RATE))
    for address in (ADDRESS, "127.0.0.1"):
        for _ in range(2 * BURST):
            assert limits.admit("any", address, 0.0) is None
            limits.checked("any", ANONYMOUS, address, 0.0)
        assert limits.subject("any") is None
    exhausted(limits)


def test_token_that_was_used_longest_ago_is_forgotten() -> None:
    limits = TokenLimits(RateLimits(RATE))
    for number in range(MAX_TOKENS):
        limits.checked(f"{number}", ANN, ADDRESS, 0.0)
    limits.checked("0", ANN, ADDRESS, 0.0)
    assert limits.subject("1") is not None
    limits.checked("one more", ANN, ADDRESS, 0.0)
    assert limits.subject("1") is None
    assert limits.subject("0") is not None
