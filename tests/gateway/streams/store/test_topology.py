"""Which server has the data, as far as anybody has said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from gateway.streams import keys
from gateway.streams.store.topology import (
    SLOTS,
    Claim,
    Endpoint,
    Placement,
    SlotMap,
    endpoint_of,
    key_of,
    newest,
    slot_of,
)

A, B, C = (Endpoint("10.0.0.1", port) for port in (7001, 7002, 7003))


@given(st.one_of(st.binary(), st.text(alphabet="{}ab").map(str.encode)))
def test_a_key_has_the_slot_that_servers_give_it(key: bytes) -> None:
    # redis-py's table is the one of the servers' source.
    assert slot_of(key) == key_slot(key)


def test_all_keys_of_a_conversation_have_one_slot() -> None:
    name, response = "c1", keys.response_id("c1", "0" * 16)
    partition = keys.partition_of(name)
    names = [
        keys.log(response),
        keys.conversation(name),
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
def test_a_command_concerns_its_first_key(words: list[Any], key: str | bytes | None) -> None:
    assert key_of(words) == key


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("10.0.0.2:7002", Endpoint("10.0.0.2", 7002)),
        (":7002", Endpoint("10.0.0.1", 7002)),
        ("[::1]:7002", Endpoint("::1", 7002)),
    ],
)
def test_a_redirection_names_a_place(text: str, place: Endpoint) -> None:
    assert endpoint_of(text, A) == place


def test_a_place_is_told_as_it_is_written_in_addresses() -> None:
    assert str(A) == "10.0.0.1:7001"
    assert str(Endpoint("::1", 7001)) == "[::1]:7001"


@given(st.permutations([Claim(1, A), Claim(1, A), Claim(2, B), Claim(10, C)]), st.integers(1, 4))
def test_the_latest_vote_counts_however_many_know_of_it(claims: list[Claim], count: int) -> None:
    told = claims[:count]
    assert newest(told) == max(told, key=lambda claim: claim.epoch).place


def test_without_a_claim_there_is_no_primary() -> None:
    assert newest([]) is None


def entry(first: int, last: int, *places: Endpoint | None) -> list[Any]:
    """An entry of the reply to CLUSTER SLOTS; None is a node without a name, on the host that was asked."""
    return [first, last, *[[p.host.encode(), p.port, b"id", []] if p else [None, 7009, b"id"] for p in places]]


def test_slots_are_learnt_and_who_has_none_any_more_is_told() -> None:
    slots = SlotMap()
    assert slots.owner(0) is None
    assert slots.owners == set()
    assert slots.learn([entry(0, 99, A, C), entry(100, SLOTS - 1, B)], A) == set()
    assert (slots.owner(0), slots.owner(99), slots.owner(100), slots.owner(SLOTS - 1)) == (A, A, B, B)
    assert slots.owners == {A, B}
    assert slots.known == {A, B, C}
    # The same again, and then C in the place of A.
    assert slots.learn([entry(0, 99, A, C), entry(100, SLOTS - 1, B)], A) == set()
    assert slots.learn([entry(0, 99, C), entry(100, SLOTS - 1, B)], B) == {A}
    assert slots.owner(99) == C


def test_a_node_without_a_name_is_where_was_asked() -> None:
    slots = SlotMap()
    slots.learn([entry(0, 10, None), [11, 12, ["?", 7010, "id"]], [13, 14]], A)
    assert slots.owner(0) == Endpoint(A.host, 7009)
    assert slots.owner(11) == Endpoint(A.host, 7010)
    assert slots.owner(13) is None


def test_a_slot_that_moved_is_there_until_more_is_known() -> None:
    slots = SlotMap()
    told = [entry(0, SLOTS - 1, A)]
    slots.learn(told, A)
    slots.moved(7, B)
    assert slots.owner(7) == B
    assert slots.owners == {A, B}
    # Who is asked has not heard of it, or it has moved back.
    assert slots.learn(told, A) == {B}
    assert slots.owner(7) == A


CHANNELS = [keys.feed(f"c{number}").encode() for number in range(6)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("want"), st.sampled_from(CHANNELS)),
            st.tuples(st.just("drop"), st.sampled_from(CHANNELS)),
            st.tuples(st.just("lost"), st.sampled_from([A, B, C])),
            st.tuples(st.just("moves"), st.tuples(st.sampled_from(CHANNELS), st.sampled_from([A, B, C]))),
            st.tuples(st.just("settle"), st.just(None)),
        ),
        max_size=40,
    )
)
def test_whatever_happens_every_wanted_channel_is_heard_at_its_owner(steps: list[tuple[str, Any]]) -> None:
    """Beside the placement, the servers: each gives up a channel whose slot leaves it, and says so."""
    placement = Placement()
    owners = dict.fromkeys(map(slot_of, CHANNELS), A)
    wanted: set[bytes] = set()
    subscribed: set[tuple[Endpoint, bytes]] = set()

    def settle() -> None:
        for place, groups in placement.due(owners.get).items():
            for channels in groups:
                assert len({slot_of(channel) for channel in channels}) == 1
                placement.asked(place, channels)
                subscribed.update((place, channel) for channel in channels)

    for step, value in steps:
        if step == "want":
            wanted.add(value)
            placement.want([value])
        elif step == "drop":
            wanted.discard(value)
            place = placement.drop(value)
            if place is not None:
                subscribed.discard((place, value))
        elif step == "lost":
            subscribed = {(place, channel) for place, channel in subscribed if place != value}
            placement.lost(value)
        elif step == "moves":
            channel, owners[slot_of(value[0])] = value
            for place, each in list(subscribed):
                if slot_of(each) == slot_of(channel) and place != owners[slot_of(channel)]:
                    subscribed.discard((place, each))
                    placement.lost(place, each)
        else:
            settle()
    settle()
    assert subscribed == {(owners[slot_of(channel)], channel) for channel in wanted}
    assert placement.due(owners.get) == {}


def test_a_channel_without_an_owner_waits() -> None:
    placement = Placement()
    placement.want(CHANNELS)
    assert placement.due(lambda _: None) == {}


def test_a_late_word_of_a_former_owner_changes_nothing() -> None:
    placement = Placement()
    placement.want(CHANNELS[:1])
    placement.asked(B, [*CHANNELS[:1], b"dropped meanwhile"])
    placement.lost(A, CHANNELS[0])
    assert placement.due(lambda _: B) == {}
    assert placement.drop(b"dropped meanwhile") is None
