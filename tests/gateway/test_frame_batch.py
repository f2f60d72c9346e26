"""The encoding of a frame batch (RFC 6455): another implementation decodes the same frames."""

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
def test_batch_is_encoded_as_unmasked_text_frames(lengths: list[int]) -> None:
    batch = FrameBatch(Frame("delta", bytes([97 + index]) * length) for index, length in enumerate(lengths))
    parser = Protocol(CLIENT, max_size=None)
    parser.receive_data(batch.encoded)
    read = parser.events_received()
    assert parser.parser_exc is None
    assert [frame.data for frame in read if isinstance(frame, ReadFrame)] == [frame.body for frame in batch]
    assert all(isinstance(frame, ReadFrame) and frame.opcode is Opcode.TEXT and frame.fin for frame in read)


def test_batch_is_encoded_once() -> None:
    batch = FrameBatch((Frame("delta", b"{}"),))
    assert batch.encoded is batch.encoded
