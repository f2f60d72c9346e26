"""Which address a client has: behind proxies, in IPv6, and in text that is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.addresses import MAX_FORWARDED, Proxies, counted_as, is_loopback, parse


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::1", "::1"),
        *((text, "") for text in ("", "127.evil", "unknown", "1.2.3", "01.2.3.4", "x" * 100)),
    ],
)
def test_address_is_counted_as_its_network(text: str, name: str) -> None:
    assert counted_as(text) == name


@pytest.mark.parametrize("text", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_loopback_addresses_are_loopback(text: str) -> None:
    assert is_loopback(text)


@pytest.mark.parametrize("text", ["", "127.evil", "127.0.0.1.example.com", "localhost", "10.0.0.1", "::2"])
def test_other_text_is_not_loopback(text: str) -> None:
    assert not is_loopback(text)


@pytest.mark.parametrize(
    ("setting", "peer", "forwarded", "client"),
    [
        # Not from a proxy: the header is a claim.
        ("", "203.0.113.9", ["10.0.0.1"], "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        # What the proxy added is on the right.
        ("10.0.0.1", "10.0.0.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", "10.0.0.1", ["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
        ("*", "10.0.0.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        # Listed proxies are passed over.
        ("10.0.0.0/8", "10.0.0.1", ["1.1.1.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("*, 10.0.0.0/8", "172.16.0.1", ["1.1.1.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.0/8", "10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # Ports and brackets.
        ("10.0.0.1", "10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", "10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", "10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        # IPv4 addresses that are mapped to IPv6.
        ("::ffff:10.0.0.1", "10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.0.0.0/104", "::ffff:10.9.9.9", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.0.0.1", "10.0.0.2", ["203.0.113.9"], "10.0.0.2"),
        # Nothing that is an address.
        ("10.0.0.1", "10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1", ["203.0.113.9, unknown"], "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1", ["203.0.113.9, "], "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.1", ["unknown, 10.0.0.2"], "10.0.0.2"),
    ],
)
def test_client_is_the_right_most_address_that_is_no_proxy(
    setting: str, peer: str, forwarded: list[str], client: str
) -> None:
    assert Proxies(setting).client(peer, forwarded) == client


@given(st.text(max_size=60), st.text(max_size=60))
def test_client_writes_cannot_change_its_address(claimed: str, more: str) -> None:
    for setting in ("*", "10.0.0.1"):
        assert Proxies(setting).client("10.0.0.1", [claimed, f"{more}, 203.0.113.9"]) == "203.0.113.9"


@given(st.text(max_size=80))
def test_any_text_is_an_address_or_none(text: str) -> None:
    assert parse(text) is None or counted_as(text)


@pytest.mark.parametrize(("proxies", "client"), [(MAX_FORWARDED - 1, "203.0.113.9"), (MAX_FORWARDED, "10.0.0.1")])
def test_only_the_last_addresses_of_a_header_are_looked_at(proxies: int, client: str) -> None:
    header = ",".join(["203.0.113.9", *["10.0.0.1"] * proxies])
    assert Proxies("10.0.0.0/8").client("10.0.0.9", [header]) == client
