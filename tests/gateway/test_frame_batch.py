"""A burst's packet is what RFC 6455 says it is: another implementation reads the same frames from it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame as ReadFrame
from websockets.frames import Opcode
from websockets.protocol import CLIENT, Protocol

from gateway.frame_batch import FrameBatch
from gateway.frame_codec import Frame

LENGTHS = st.one_of(st.integers(0, 300), st.sampled_from([125, 126, 127, 65_535, 65_536, 65_537, 200_000]))


@given(st.lists(LENGTHS, max_size=4))
def test_a_packet_is_each_frame_as_one_unmasked_text_frame(lengths: list[int]) -> None:
    burst = FrameBatch(Frame("delta", bytes([97 + index]) * length) for index, length in enumerate(lengths))
    parser = Protocol(CLIENT, max_size=None)
    parser.receive_data(burst.encoded)
    read = parser.events_received()
    assert parser.parser_exc is None
    assert [frame.data for frame in read if isinstance(frame, ReadFrame)] == [frame.body for frame in burst]
    assert all(isinstance(frame, ReadFrame) and frame.opcode is Opcode.TEXT and frame.fin for frame in read)


def test_a_packet_is_made_once() -> None:
    burst = FrameBatch((Frame("delta", b"{}"),))
    assert burst.encoded is burst.encoded
