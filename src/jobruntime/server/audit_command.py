"""`jobd audit`: verify the record of calls, or print its head."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from jobruntime.model.audit_lines import parse_head
from jobruntime.model.errors import JobError, Reason, invalid

from .audit_verify import Findings, files_of, verify_audit, verify_kept
from .config import read_config
from .errors_out import print_error
from .open_files import raise_open_files

EXIT_FAULTS: Final = 1
EXIT_USAGE: Final = 2
_PAUSE_S: Final = 0.2


def run(args: argparse.Namespace) -> int:
    """Run the command below `jobd audit`; return the exit code. Raises JobError."""
    if args.action == "head":
        return _head(args)
    if (args.config is None) == (not args.files):
        return _wrong("cannot verify an audit: name one, and in one way", "give --config or files")
    try:
        wanted = None if args.head is None else parse_head(args.head)
    except ValueError as error:
        return _wrong(f"cannot use this head: {error}", "give what `jobd audit head` printed")
    return _verify(args, wanted)


def _wrong(cause: str, remedy: str) -> int:
    print_error(invalid(cause, remedy))
    return EXIT_USAGE


def _verify(args: argparse.Namespace, wanted: tuple[int | None, str] | None) -> int:
    if args.files:
        findings = _look([Path(file) for file in args.files], wanted, is_whole=False)
    else:
        raise_open_files()  # all files that are kept are open at once
        path = read_config(args.config).audit.path
        findings = _look_again(lambda: _look_at_kept(path, wanted))
    if args.output == "json":
        print(_json(findings))
    else:
        print(_text(findings, with_head=wanted is not None, is_whole=not args.files))
    return EXIT_FAULTS if findings.faults else 0


def _head(args: argparse.Namespace) -> int:
    findings = _look_again(lambda: _look(_paths(args.config)[-1:], None, is_whole=False))
    if findings.head is None or findings.faults:
        cause = str(findings.faults[0]) if findings.faults else "it has no line"
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot tell the head of the audit: {cause}",
            f"run: jobd audit verify --config {args.config}",
        )
    print(findings.head)
    return 0


def _look_again(look: Callable[[], Findings]) -> Findings:
    """Look; where something is wrong, once more: the server may have been writing a line."""
    findings = look()
    if findings.faults:
        time.sleep(_PAUSE_S)
        findings = look()
    return findings


def _paths(config: str) -> list[Path]:
    path = read_config(config).audit.path
    try:
        paths = files_of(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not paths:
        raise _missing(path)
    return paths


def _look_at_kept(path: Path, wanted: tuple[int | None, str] | None) -> Findings:
    try:
        findings = verify_kept(path, wanted)
    except OSError as error:
        raise _unreadable(Path(error.filename or path), error) from error
    if not findings.files:
        raise _missing(path)
    return findings


def _look(paths: list[Path], wanted: tuple[int | None, str] | None, *, is_whole: bool) -> Findings:
    try:
        return verify_audit(paths, wanted, is_whole=is_whole)
    except OSError as error:
        raise _unreadable(Path(error.filename or paths[0]), error) from error


def _missing(path: Path) -> JobError:
    return JobError(
        Reason.CONFIG_INVALID,
        f"cannot read the audit {path}: there is none",
        "start the server once, or name the files",
    )


def _unreadable(path: Path, error: OSError) -> JobError:
    return JobError(
        Reason.CONFIG_INVALID,
        f"cannot read the audit {path}: {(error.strerror or str(error)).lower()}",
        "run it as the server's user or as root",
    )


def _text(findings: Findings, *, with_head: bool, is_whole: bool) -> str:
    faults = [str(fault) for fault in findings.faults]
    told = f"{findings.lines} lines in {len(findings.files)} files, head {findings.head}"
    if faults:
        return "\n".join([*faults, f"{len(faults)} faults: {told}"])
    notes = "" if with_head else "; lines cut from the end show only with --head"
    if not is_whole and findings.first_seq not in (None, 1):
        notes += f"; what came before line {findings.first_seq} is in none of these files"
    return f"ok: {told}{notes}"


def _json(findings: Findings) -> str:
    head = findings.head
    return json.dumps(
        {
            "ok": not findings.faults,
            "files": findings.files,
            "lines": findings.lines,
            "first_seq": findings.first_seq,
            "head": None if head is None else str(head),
            "faults": [asdict(fault) for fault in findings.faults],
        }
    )
