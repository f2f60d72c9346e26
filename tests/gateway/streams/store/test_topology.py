"""Topology: slots, redirections, elections and channel placement."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from gateway.streams import keys
from gateway.streams.store.topology import (
    SLOTS,
    ChannelPlacement,
    Endpoint,
    PrimaryReport,
    SlotMap,
    endpoint_of,
    key_of,
    latest_primary,
    slot_of,
)

A, B, C = (Endpoint("10.0.0.1", port) for port in (7001, 7002, 7003))


@given(st.one_of(st.binary(), st.text(alphabet="{}ab").map(str.encode)))
def test_slot_of_any_key_equals_redis_py(key: bytes) -> None:
    # redis-py uses the table of the server's source.
    assert slot_of(key) == key_slot(key)


def test_keys_of_a_conversation_share_one_slot() -> None:
    name, response = "c1", keys.response_id("c1", "0" * 16)
    partition = keys.partition_of(name)
    names = [
        keys.log(response),
        keys.history(name),
        keys.feed(name),
        keys.jobs(partition),
        keys.control(partition),
    ]
    assert len({slot_of(each) for each in names}) == 1
    assert len({slot_of(keys.jobs(each)) for each in range(keys.PARTITIONS)}) == keys.PARTITIONS


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["XRANGE", "k", "-", "+"], "k"),
        (["XGROUP", "CREATE", "k", "workers", "0"], "k"),
        (["xinfo", "STREAM", "k"], "k"),
        (["EVALSHA", "digest", 2, "k", "l"], "k"),
        (["EVAL", "return 1", 0], None),
        (["XREADGROUP", "GROUP", "workers", "w1", "COUNT", 1, "STREAMS", "k", ">"], "k"),
        (["SET", b"k", "1"], b"k"),
        (["PING"], None),
        (["SCRIPT", "FLUSH"], None),
    ],
)
def test_key_of_a_command_is_its_first_key(words: list[Any], key: str | bytes | None) -> None:
    assert key_of(words) == key


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("10.0.0.2:7002", Endpoint("10.0.0.2", 7002)),
        (":7002", Endpoint("10.0.0.1", 7002)),
        ("[::1]:7002", Endpoint("::1", 7002)),
    ],
)
def test_redirection_is_parsed_as_an_endpoint(text: str, endpoint: Endpoint) -> None:
    assert endpoint_of(text, A) == endpoint


def test_endpoint_is_formatted_as_in_urls() -> None:
    assert str(A) == "10.0.0.1:7001"
    assert str(Endpoint("::1", 7001)) == "[::1]:7001"


REPORTS = [PrimaryReport(1, A), PrimaryReport(1, A), PrimaryReport(2, B), PrimaryReport(10, C)]


@given(st.permutations(REPORTS), st.integers(1, 4))
def test_primary_of_the_latest_epoch_wins(reports: list[PrimaryReport], count: int) -> None:
    received = reports[:count]
    assert latest_primary(received) == max(received, key=lambda report: report.epoch).endpoint


def test_without_reports_there_is_no_primary() -> None:
    assert latest_primary([]) is None


def entry(first: int, last: int, *endpoints: Endpoint | None) -> list[Any]:
    """Return an entry of the reply to CLUSTER SLOTS; None is a node without a name, on the host that replied."""
    return [first, last, *[[p.host.encode(), p.port, b"id", []] if p else [None, 7009, b"id"] for p in endpoints]]


def test_slot_map_update_returns_nodes_without_slots() -> None:
    slots = SlotMap()
    assert slots.owner(0) is None
    assert slots.owners == set()
    assert slots.update([entry(0, 99, A, C), entry(100, SLOTS - 1, B)], A) == set()
    assert (slots.owner(0), slots.owner(99), slots.owner(100), slots.owner(SLOTS - 1)) == (A, A, B, B)
    assert slots.owners == {A, B}
    assert slots.nodes == {A, B, C}
    # The same reply, then one in which C replaces A.
    assert slots.update([entry(0, 99, A, C), entry(100, SLOTS - 1, B)], A) == set()
    assert slots.update([entry(0, 99, C), entry(100, SLOTS - 1, B)], B) == {A}
    assert slots.owner(99) == C


def test_node_without_a_name_is_on_the_host_that_replied() -> None:
    slots = SlotMap()
    slots.update([entry(0, 10, None), [11, 12, ["?", 7010, "id"]], [13, 14]], A)
    assert slots.owner(0) == Endpoint(A.host, 7009)
    assert slots.owner(11) == Endpoint(A.host, 7010)
    assert slots.owner(13) is None


def test_redirected_slot_is_kept_until_the_next_update() -> None:
    slots = SlotMap()
    reply = [entry(0, SLOTS - 1, A)]
    slots.update(reply, A)
    slots.set_owner(7, B)
    assert slots.owner(7) == B
    assert slots.owners == {A, B}
    # The node that replied has not been informed, or the slot has moved back.
    assert slots.update(reply, A) == {B}
    assert slots.owner(7) == A


CHANNELS = [keys.feed(f"c{number}").encode() for number in range(6)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.sampled_from(CHANNELS)),
            st.tuples(st.just("remove"), st.sampled_from(CHANNELS)),
            st.tuples(st.just("connection lost"), st.sampled_from([A, B, C])),
            st.tuples(st.just("slot moves"), st.tuples(st.sampled_from(CHANNELS), st.sampled_from([A, B, C]))),
            st.tuples(st.just("settle"), st.just(None)),
        ),
        max_size=40,
    )
)
def test_every_wanted_channel_is_subscribed_at_its_owner(steps: list[tuple[str, Any]]) -> None:
    """The model of the nodes: each revokes a channel whose slot moves away, and reports it."""
    placement = ChannelPlacement()
    owners = dict.fromkeys(map(slot_of, CHANNELS), A)
    wanted: set[bytes] = set()
    subscribed: set[tuple[Endpoint, bytes]] = set()

    def settle() -> None:
        for endpoint, groups in placement.pending(owners.get).items():
            for channels in groups:
                assert len({slot_of(channel) for channel in channels}) == 1
                placement.mark_subscribed(endpoint, channels)
                subscribed.update((endpoint, channel) for channel in channels)

    for step, value in steps:
        if step == "add":
            wanted.add(value)
            placement.add([value])
        elif step == "remove":
            wanted.discard(value)
            endpoint = placement.remove(value)
            if endpoint is not None:
                subscribed.discard((endpoint, value))
        elif step == "connection lost":
            subscribed = {(endpoint, channel) for endpoint, channel in subscribed if endpoint != value}
            placement.invalidate(value)
        elif step == "slot moves":
            channel, owners[slot_of(value[0])] = value
            for endpoint, each in list(subscribed):
                if slot_of(each) == slot_of(channel) and endpoint != owners[slot_of(channel)]:
                    subscribed.discard((endpoint, each))
                    placement.invalidate(endpoint, each)
        else:
            settle()
    settle()
    assert subscribed == {(owners[slot_of(channel)], channel) for channel in wanted}
    assert placement.pending(owners.get) == {}


def test_channel_without_an_owner_is_not_pending() -> None:
    placement = ChannelPlacement()
    placement.add(CHANNELS)
    assert placement.pending(lambda _: None) == {}


def test_late_revocation_by_a_former_owner_is_ignored() -> None:
    placement = ChannelPlacement()
    placement.add(CHANNELS[:1])
    placement.mark_subscribed(B, [*CHANNELS[:1], b"removed meanwhile"])
    placement.invalidate(A, CHANNELS[0])
    assert placement.pending(lambda _: B) == {}
    assert placement.remove(b"removed meanwhile") is None
