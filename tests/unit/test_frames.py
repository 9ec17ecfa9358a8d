"""The log's format: what was written is read back, and what is damaged never passes for output."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.model.frames import (
    BLOCK_BYTES,
    BLOCK_HEADER,
    FRAME_HEADER,
    MAX_DATA_BYTES,
    Chunk,
    Entry,
    FrameError,
    Gap,
    Stream,
    encode_gap,
    parse_frames,
    write_header,
)

times = st.integers(0, 2**64 - 1)
chunks = st.builds(Chunk, st.sampled_from(Stream), times, st.binary(max_size=200))
gaps = st.builds(Gap, st.sampled_from(Stream), times, times, times, st.text(max_size=40))
entries = st.lists(st.one_of(chunks, gaps), max_size=8)


def encode(entry: Entry) -> bytes:
    if isinstance(entry, Gap):
        return encode_gap(entry)
    buffer = bytearray(FRAME_HEADER.size)
    write_header(memoryview(buffer), entry.stream, len(entry.data), entry.time_ns)
    return bytes(buffer) + entry.data


@given(entries)
def test_frames_are_read_back_as_they_were_written(written: list[Entry]) -> None:
    encoded = [encode(entry) for entry in written]
    found = list(parse_frames(b"".join(encoded)))
    assert [entry for _, entry in found] == written
    ends = [sum(map(len, encoded[: n + 1])) for n in range(len(encoded))]
    assert [end for end, _ in found] == ends


@given(entries.filter(bool), st.data())
def test_of_a_cut_log_only_the_whole_frames_are_read(
    written: list[Entry], data: st.DataObject
) -> None:
    whole = b"".join(map(encode, written))
    cut = data.draw(st.integers(0, len(whole) - 1))
    found = list(parse_frames(whole[:cut]))
    assert [entry for _, entry in found] == written[: len(found)]
    assert len(found) < len(written)


@given(entries, st.binary(min_size=FRAME_HEADER.size, max_size=200))
def test_garbage_is_refused_or_read_as_frames_but_raises_nothing_else(
    written: list[Entry], garbage: bytes
) -> None:
    found = []
    try:
        for _, entry in parse_frames(b"".join(map(encode, written)) + garbage):
            found.append(entry)
    except FrameError:
        pass
    assert found[: len(written)] == written


@given(entries.filter(bool), st.data())
def test_a_frame_without_its_mark_is_refused(written: list[Entry], data: st.DataObject) -> None:
    encoded = [bytearray(encode(entry)) for entry in written]
    victim = data.draw(st.integers(0, len(encoded) - 1))
    encoded[victim][0] ^= data.draw(st.integers(1, 255))
    frames = parse_frames(b"".join(encoded))
    assert [entry for _, entry in islice(frames, victim)] == written[:victim]
    with pytest.raises(FrameError, match="no frame starts at"):
        next(frames)


@given(st.integers(MAX_DATA_BYTES + 1, 2**32 - 1))
def test_a_length_that_no_frame_has_is_refused_and_not_waited_for(length: int) -> None:
    header = bytearray(encode(Chunk(Stream.STDOUT, 1, b"")))
    header[4:8] = length.to_bytes(4, "little")
    with pytest.raises(FrameError):
        list(parse_frames(header))


@given(gaps, st.data())
def test_a_damaged_gap_is_refused(gap: Gap, data: st.DataObject) -> None:
    body = encode_gap(gap)[FRAME_HEADER.size :]
    short = body[: data.draw(st.integers(0, 31))]
    frame = bytearray(encode_gap(gap)[: FRAME_HEADER.size]) + short
    frame[4:8] = len(short).to_bytes(4, "little")
    with pytest.raises(FrameError, match="damaged"):
        list(parse_frames(frame))


def test_the_largest_frame_is_read_back() -> None:
    chunk = Chunk(Stream.STDERR, 7, b"x" * MAX_DATA_BYTES)
    assert [entry for _, entry in parse_frames(encode(chunk))] == [chunk]
    assert BLOCK_HEADER.size + len(encode(chunk)) == BLOCK_BYTES
