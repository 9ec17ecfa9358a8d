"""Lines of JSON from chunks: nothing lost, whatever the bytes and wherever they are cut."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobruntime.cli import lines as lines_module
from jobruntime.cli.lines import JsonLines

T0 = 1_643_018_400_000_000_000
T0_TEXT = "2022-01-24T10:00:00.000000000Z"
PIECES = st.binary(max_size=12) | st.sampled_from(
    [b"\n", b"\n\n", b"a\nb\n", b'\\n\n"\\\n', b"\x7f\n", "é€😀\n".encode(), b"\xe2\x82", b"\xac\n"]
)
CHUNKS = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), PIECES))


def bytes_of(objects: list[dict[str, object]], stream: str) -> bytes:
    """Put a stream together again, by the rule that the help gives."""
    data = b""
    for found in objects:
        if found["stream"] != stream:
            continue
        if "log_base64" in found:
            data += base64.b64decode(str(found["log_base64"]), validate=True)
        else:
            data += str(found["log"]).encode()
        data += b"" if found.get("partial") else b"\n"
    return data


def objects_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.split("\n") if line]


@given(CHUNKS, st.sampled_from([1, 3, 4, 7, 1000]))
@example([("stdout", b"a" * 10), ("stdout", b"\n")], 3)
@example([("stdout", b"\x80" * 20), ("stdout", b"\x80\n")], 4)
def test_any_chunks_of_any_bytes_give_the_same_bytes_back(
    chunks: list[tuple[str, bytes]], max_line_bytes: int
) -> None:
    lines = JsonLines(max_line_bytes)
    text = "".join(
        part
        for number, (stream, data) in enumerate(chunks)
        for part in lines.take_chunk(stream, T0 + number, data)
    )
    objects = objects_of(text + lines.finish())
    for stream in ("stdout", "stderr"):
        whole = b"".join(data for name, data in chunks if name == stream)
        assert bytes_of(objects, stream) == whole
    assert lines.finish() == ""


@given(CHUNKS)
def test_the_time_of_a_line_is_that_of_the_chunk_with_its_first_byte(
    chunks: list[tuple[str, bytes]],
) -> None:
    lines = JsonLines()
    objects = []
    for number, (stream, data) in enumerate(chunks):
        objects += objects_of("".join(lines.take_chunk(stream, T0 + number, data)))
    objects += objects_of(lines.finish())
    for name in ("stdout", "stderr"):
        expected = []
        at_start = True
        for number, (stream, data) in enumerate(chunks):
            for byte in data if stream == name else b"":
                if at_start:
                    expected.append(lines.time_text(T0 + number))
                at_start = byte == ord("\n")
        assert [found["time"] for found in objects if found["stream"] == name] == expected


def test_a_line_has_the_form_of_the_design() -> None:
    text = "".join(JsonLines().take_chunk("stdout", T0, b"log message here\n"))
    assert text == f'{{"log": "log message here", "stream": "stdout", "time": "{T0_TEXT}"}}\n'


def test_bytes_that_are_not_utf8_are_told_twice() -> None:
    (found,) = objects_of("".join(JsonLines().take_chunk("stderr", T0, b"a\xff\n")))
    assert list(found) == ["log", "stream", "time", "log_base64"]
    assert found["log"] == "a�"
    assert base64.b64decode(str(found["log_base64"])) == b"a\xff"


def test_a_character_that_two_chunks_share_is_whole() -> None:
    lines = JsonLines()
    assert lines.take_chunk("stdout", T0, b"\xe2\x82") == []
    (found,) = objects_of("".join(lines.take_chunk("stdout", T0, b"\xac\n")))
    assert found["log"] == "€"


def test_a_long_line_is_cut_between_characters() -> None:
    lines = JsonLines(max_line_bytes=4)
    text = "".join(lines.take_chunk("stdout", T0, "€€€€\n".encode()[:-1]))
    objects = objects_of(text + lines.finish())
    assert all("log_base64" not in found for found in objects)
    assert all(found["partial"] is True for found in objects)


def test_a_gap_comes_behind_the_piece_of_the_line_that_it_broke() -> None:
    lines = JsonLines()
    lines.take_chunk("stdout", T0, b"half")
    piece, gap = objects_of(lines.take_gap("stdout", 5, T0, T0 + 1, 'a "full" disk'))
    assert (piece["log"], piece["partial"]) == ("half", True)
    assert list(gap) == ["gap", "stream", "time"]
    assert gap["gap"] == {
        "bytes": 5,
        "cause": 'a "full" disk',
        "until": "2022-01-24T10:00:00.000000001Z",
    }


@given(st.integers(0, 2**63 - 1))
def test_times_keep_their_nanoseconds(time_ns: int) -> None:
    assert JsonLines().time_text(time_ns).endswith(f".{time_ns % 10**9:09d}Z")


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=1))
def test_blocks_give_the_same_as_line_by_line(texts: list[str]) -> None:
    data = "".join(text + "\n" for text in texts).encode()
    at_once = "".join(JsonLines().take_chunk("stdout", T0, data))
    lines = JsonLines()
    one_by_one = ""
    for line in data.split(b"\n")[:-1]:
        one_by_one += "".join(lines.take_chunk("stdout", T0, line + b"\n"))
    assert at_once == one_by_one


def test_a_chunk_larger_than_a_block_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", 10)
    data = b"".join(b"%d\n" % number for number in range(1000)) + b"rest"
    lines = JsonLines()
    texts = lines.take_chunk("stdout", T0, data)
    assert len(texts) > 100
    assert bytes_of(objects_of("".join(texts) + lines.finish()), "stdout") == data
