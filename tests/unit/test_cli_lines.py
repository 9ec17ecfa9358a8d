"""Lines of JSON from chunks: nothing lost, whatever the bytes and wherever they are cut."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobruntime.cli import lines as lines_module
from jobruntime.cli.lines import JsonLines, TextLines

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


def objects_of(text: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.split(b"\n") if line]


def finish(lines: JsonLines) -> bytes:
    return b"".join(text for stream in lines.streams for text in lines.end(stream))


@given(CHUNKS, st.sampled_from([1, 3, 4, 7, 1000]))
@example([("stdout", b"a" * 10), ("stdout", b"\n")], 3)
@example([("stdout", b"\x80" * 20), ("stdout", b"\x80\n")], 4)
def test_any_chunks_of_any_bytes_give_the_same_bytes_back(
    chunks: list[tuple[str, bytes]], max_line_bytes: int
) -> None:
    lines = JsonLines(max_line_bytes)
    text = b"".join(
        part
        for number, (stream, data) in enumerate(chunks)
        for part in lines.take_chunk(stream, T0 + number, data)
    )
    objects = objects_of(text + finish(lines))
    for stream in ("stdout", "stderr"):
        whole = b"".join(data for name, data in chunks if name == stream)
        assert bytes_of(objects, stream) == whole
    assert finish(lines) == b""


@given(CHUNKS)
def test_the_time_of_a_line_is_that_of_the_chunk_with_its_first_byte(
    chunks: list[tuple[str, bytes]],
) -> None:
    lines = JsonLines()
    objects = []
    for number, (stream, data) in enumerate(chunks):
        objects += objects_of(b"".join(lines.take_chunk(stream, T0 + number, data)))
    objects += objects_of(finish(lines))
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
    text = b"".join(JsonLines().take_chunk("stdout", T0, b"log message here\n"))
    expected = f'{{"log": "log message here", "stream": "stdout", "time": "{T0_TEXT}"}}\n'
    assert text == expected.encode()


def test_bytes_that_are_not_utf8_are_told_twice() -> None:
    (found,) = objects_of(b"".join(JsonLines().take_chunk("stderr", T0, b"a\xff\n")))
    assert list(found) == ["log", "stream", "time", "log_base64"]
    assert found["log"] == "a�"
    assert base64.b64decode(str(found["log_base64"])) == b"a\xff"


def test_a_character_that_two_chunks_share_is_whole() -> None:
    lines = JsonLines()
    assert lines.take_chunk("stdout", T0, b"\xe2\x82") == []
    (found,) = objects_of(b"".join(lines.take_chunk("stdout", T0, b"\xac\n")))
    assert found["log"] == "€"


def test_a_long_line_is_cut_between_characters() -> None:
    lines = JsonLines(max_line_bytes=4)
    text = b"".join(lines.take_chunk("stdout", T0, "€€€€\n".encode()[:-1]))
    objects = objects_of(text + finish(lines))
    assert all("log_base64" not in found for found in objects)
    assert all(found["partial"] is True for found in objects)


def test_a_gap_comes_behind_the_piece_of_the_line_that_it_broke() -> None:
    lines = JsonLines()
    lines.take_chunk("stdout", T0, b"half")
    text = b"".join(lines.end("stdout")) + lines.gap("stdout", 5, T0, T0 + 1, 'a "full" disk')
    piece, gap = objects_of(text)
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
    at_once = b"".join(JsonLines().take_chunk("stdout", T0, data))
    lines = JsonLines()
    one_by_one = b""
    for line in data.split(b"\n")[:-1]:
        one_by_one += b"".join(lines.take_chunk("stdout", T0, line + b"\n"))
    assert at_once == one_by_one


@pytest.mark.parametrize("char", [*range(10), *range(11, 0x20), ord('"'), ord("\\"), 0x7F])
def test_every_character_that_json_escapes_comes_back(char: int) -> None:
    line = b"a%cb%c" % (char, char)
    text = b"".join(JsonLines().take_chunk("stdout", T0, line + b"\n" + line + b"\n"))
    assert [found["log"] for found in objects_of(text)] == [line.decode()] * 2


def test_a_chunk_larger_than_a_block_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", 10)
    data = b"".join(b"%d\n" % number for number in range(1000)) + b"rest"
    lines = JsonLines()
    texts = lines.take_chunk("stdout", T0, data)
    assert len(texts) > 100
    assert bytes_of(objects_of(b"".join(texts) + finish(lines)), "stdout") == data


def test_a_job_is_named_in_every_object() -> None:
    lines = JsonLines(job="a62d")
    text = b"".join(lines.take_chunk("stdout", T0, b"a\nb\n\xff\nrest")) + finish(lines)
    objects = objects_of(text + lines.gap("stdout", 5, T0, T0, "full"))
    assert [found["job"] for found in objects] == ["a62d"] * 5
    assert list(objects[0]) == ["log", "stream", "time", "job"]


@given(CHUNKS)
def test_text_has_the_prefix_before_each_line_and_nothing_else_is_changed(
    chunks: list[tuple[str, bytes]],
) -> None:
    prefixes = {"stdout": b"a | ", "stderr": b"b | "}
    lines = TextLines(prefixes, has_times=False)
    told = {"stdout": b"", "stderr": b""}
    for number, (stream, data) in enumerate(chunks):
        told[stream] += b"".join(lines.take_chunk(stream, T0 + number, data))
    for stream in lines.streams:
        told[stream] += b"".join(lines.end(stream))
    for stream, prefix in prefixes.items():
        whole = b"".join(data for name, data in chunks if name == stream)
        expected = whole.removesuffix(b"\n").split(b"\n") if whole else []
        assert told[stream] == b"".join(prefix + line + b"\n" for line in expected)


def test_text_has_the_time_of_capture_behind_the_prefix() -> None:
    lines = TextLines({"stdout": b"a | "}, has_times=True)
    texts = lines.take_chunk("stdout", T0, b"one\ntwo\nthr")
    texts += lines.take_chunk("stdout", T0 + 1, b"ee\nfour\n")
    later = T0_TEXT.replace("000Z", "001Z")
    assert b"".join(texts).decode().splitlines() == [
        f"a | {T0_TEXT} one",
        f"a | {T0_TEXT} two",
        f"a | {T0_TEXT} three",
        f"a | {later} four",
    ]
