"""What the documents say of the code is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobruntime.cli.connection import failure_of
from jobruntime.cli.failure import Exit
from jobruntime.cli.settings import Settings
from jobruntime.model.errors import Reason
from jobruntime.model.frames import (
    BLOCK_BYTES,
    BLOCK_HEADER,
    FRAME_HEADER,
    MAX_DATA_BYTES,
    VERSION,
    BlockHeader,
    Chunk,
    Gap,
    Stream,
    encode_block_header,
    encode_gap,
    parse_block_header,
    parse_frames,
    write_header,
)
from jobruntime.rpc.errors import CODES, RemoteError

ROOT = Path(__file__).parents[2]
ERRORS = (ROOT / "docs/errors.md").read_text()
LOG_FORMAT = (ROOT / "docs/log-format.md").read_text()
EXAMPLE = (
    Chunk(Stream.STDOUT, 1_643_018_400_000_000_000, b"hello\n"),
    Gap(
        Stream.STDERR,
        4096,
        1_643_018_400_500_000_000,
        1_643_018_401_000_000_000,
        "No space left on device",
    ),
    Chunk(Stream.STDERR, 1_643_018_402_000_000_000, b"bye\n"),
)


def rows(text: str) -> list[list[str]]:
    """Return the cells of every row of every table."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


REASONS = {row[0].strip("`"): row[1:] for row in rows(ERRORS) if row[0].startswith("`")}


def hex_example() -> bytes:
    """Return the bytes of the example: what stands left of three spaces."""
    found = re.search(r"```hex\n(.*?)```", LOG_FORMAT, re.DOTALL)
    assert found
    return bytes.fromhex(" ".join(line.split("   ")[0] for line in found[1].splitlines()))


def test_the_table_of_errors_has_every_reason_in_the_order_of_the_code_and_no_other() -> None:
    assert list(REASONS) == [str(reason) for reason in Reason]


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_has_the_grpc_code_and_exit_code_that_the_table_says(reason: Reason) -> None:
    code, exit_code, meaning, remedy = REASONS[reason]
    remote = RemoteError(CODES[reason], str(reason), "cannot do it: no")
    settings = Settings("localhost:1", Path(), Path(), Path())
    assert code == CODES[reason].name
    assert int(exit_code) == failure_of(settings, remote).exit_code
    assert meaning.endswith(".")
    assert remedy.endswith(".")


def test_the_table_of_exit_codes_is_jobcs() -> None:
    documented = [int(row[0]) for row in rows(ERRORS) if row[0].isdigit()]
    assert documented == [int(code) for code in Exit]


def test_the_example_of_the_log_format_is_what_it_says() -> None:
    data = hex_example()
    assert parse_block_header(data) == BlockHeader(BLOCK_BYTES, 0)
    frames = list(parse_frames(data[BLOCK_HEADER.size :]))
    assert tuple(entry for _, entry in frames) == EXAMPLE
    assert frames[-1][0] == len(data) - BLOCK_HEADER.size


def test_the_code_writes_the_example_byte_for_byte() -> None:
    written = bytearray(encode_block_header(BlockHeader(BLOCK_BYTES, 0)))
    for entry in EXAMPLE:
        if isinstance(entry, Gap):
            written += encode_gap(entry)
        else:
            header = bytearray(FRAME_HEADER.size)
            write_header(memoryview(header), entry.stream, len(entry.data), entry.time_ns)
            written += header + entry.data
    assert bytes(written) == hex_example()


def test_the_log_format_tells_version_and_limit_of_the_code() -> None:
    assert f"format version {VERSION}." in LOG_FORMAT
    assert f"at most {MAX_DATA_BYTES:,} " in LOG_FORMAT


@pytest.mark.parametrize(
    "document",
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "bench/README.md"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_link_to_a_file_of_the_project_leads_to_one(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), target


SECURITY = (ROOT / "docs/security.md").read_text()


def test_every_test_that_the_security_page_names_is_there() -> None:
    named = re.findall(r"`(tests/[a-z0-9_/]+\.py)::(test_\w+)`", SECURITY)
    assert len(named) > 50
    assert SECURITY.count("::") == len(named)
    for file, name in named:
        text = (ROOT / file).read_text()
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), (file, name)
        marks = re.search(rf"((?:@[^\n]*\n)*)(?:async )?def {name}\(", text)
        assert marks
        skipped = re.search(r"mark\.(skip|long)\b", marks[1])
        assert not skipped, (file, name)
