"""Run the tests marked v2 where there is a cgroup v2 for them: on this host itself, or in guests.

    python -m tests.bed.run [--required] [what pytest takes]

The exit code is pytest's. Where these tests can run nowhere it says so at the very end, and that is
a failure in CI and with --required.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.bed import native
from tests.bed.machine import FAILED

ROOT: Final = Path(__file__).resolve().parents[2]
TESTS: Final = "tests/limits"
MOST_GUESTS: Final = 4
MOST_TRIED_AGAIN: Final = 3
PATIENCE: Final = 4
COSTLY_S: Final = {
    "test_all_jobs.py": 54,
    "test_container.py": 17,
    "test_cpu.py": 23,
    "test_doctor.py": 44,
    "test_failed_limits.py": 11,
    "test_io.py": 18,
    "test_memory.py": 23,
    "test_oom_causes.py": 76,
    "test_operator_io.py": 54,
    "test_role_limits.py": 18,
    "test_stats.py": 17,
    "test_update.py": 30,
}
"""How long these files take in a guest, about; a test of the others takes USUAL_S."""
USUAL_S: Final = 2
GUEST_S: Final = 3600 if os.environ.get("JOBRUNTIME_LONG") == "1" else 600

NOT_TESTED: Final = """
!! The limits were NOT tested: {count} tests need a cgroup v2 with its controllers.
!!   on this host: {here}
!!   in a guest:   {guest}
!! `make test` runs them on a host with cgroup v2 where it is root, and wherever user-mode-linux is
!! installed: sudo apt-get install user-mode-linux e2fsprogs dmsetup"""


@dataclass(frozen=True, slots=True)
class Selection:
    """What the arguments select: the tests of each file, and the arguments without the paths."""

    files: dict[Path, list[str]]
    options: list[str]

    @property
    def tests(self) -> list[str]:
        """All of them, in pytest's order."""
        return [test for tests in self.files.values() for test in tests]


class _Collector:
    """A plugin for pytest that keeps what was collected, and which arguments were paths."""

    def __init__(self) -> None:
        self.files: dict[Path, list[str]] = {}
        self.paths: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.config.args_source is pytest.Config.ArgsSource.ARGS:
            self.paths.update(session.config.args)
        for item in session.items:
            self.files.setdefault(item.path, []).append(item.nodeid)


class _Guest:
    """A guest that runs some of the tests, and whose lines come out here."""

    def __init__(self, name: str, cpu: int, words: list[str]) -> None:
        self.has_spoken = False
        self.failed: list[str] = []
        """The lines in which pytest sums up what failed."""
        self._name = name
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            # Should this process be killed, the launcher ends its guest.
            ["setpriv", "--pdeathsig", "TERM", *_bed_words(cpu), "--", *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        self._thread = threading.Thread(target=self._relay)
        self._thread.start()

    def wait(self) -> int:
        """Wait for its end and return the exit code."""
        code = self._process.wait()
        self._thread.join()
        return code

    def _relay(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.has_spoken = True
                text = line.decode(errors="replace")
                self._say(text)
                if text.startswith(("FAILED ", "ERROR ")):
                    self.failed.append(text.rstrip("\n").partition(" ")[2])
        seconds = time.monotonic() - self._started
        self._say(f"ended with {self._process.wait()} after {seconds:.0f} s\n")

    def _say(self, line: str) -> None:
        sys.stdout.write(f"{self._name}: {line}")
        sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Run the tests; return the exit code."""
    is_required = arguments[:1] == ["--required"]
    selection = select(arguments[1:] if is_required else arguments)
    if isinstance(selection, int):
        return selection
    here = native.missing()
    if here is None:
        print("== testing limits: in this host's cgroup v2", flush=True)
        words = _pytest_words(selection.options, selection.tests)
        return subprocess.run(words, cwd=ROOT, check=False).returncode
    guest = _install()
    if guest is None:
        code = _run_in_guests(selection)
        if code is not None:
            return code
        guest = "user-mode Linux does not run here, as told above"
    print(NOT_TESTED.format(count=len(selection.tests), here=here, guest=guest), flush=True)
    return 1 if is_required or os.environ.get("CI") else 0


def select(arguments: list[str]) -> Selection | int:
    """Return what the arguments select, or pytest's exit code where that is nothing."""
    collector = _Collector()
    flags = ["--collect-only", "-q", "-o", f"testpaths={TESTS}", "-m", "v2 and not long"]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = pytest.main([*flags, *arguments, "-n0"], plugins=[collector])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        print(output.getvalue(), end="", flush=True)
    if code != pytest.ExitCode.OK:
        return int(code)
    options = [word for word in arguments if word not in collector.paths]
    return Selection(collector.files, options)


def deal(files: dict[Path, list[str]], hands: int) -> list[list[str]]:
    """Return the tests in as many parts that take about the same time, the files whole."""
    seconds = {path: COSTLY_S.get(path.name, USUAL_S * len(files[path])) for path in files}
    parts: list[tuple[int, list[str]]] = [(0, []) for _ in range(min(hands, len(files)))]
    for path in sorted(files, key=lambda path: seconds[path], reverse=True):
        parts.sort(key=lambda part: part[0])
        taken, tests = parts[0]
        parts[0] = (taken + seconds[path], tests + files[path])
    return [tests for _, tests in parts]


def _install() -> str | None:
    """See to what a guest needs; return why that can't be had."""
    words = [str(ROOT / "scripts/ensure-packages.sh"), "guest"]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip()


def _run_in_guests(selection: Selection) -> int | None:
    """Run the tests in guests beside each other; return the exit code, None where none came up."""
    cpus = sorted(os.sched_getaffinity(0))
    parts = deal(selection.files, min(len(cpus), MOST_GUESTS))
    print(f"== testing limits: in {len(parts)} guests, which have cgroup v2", flush=True)
    patience = ["-o", f"timeout={120 * PATIENCE}"]
    guests = [
        _Guest(f"guest {cpu}", cpu, _pytest_words([*patience, *selection.options], tests))
        for cpu, tests in zip(cpus, parts, strict=False)
    ]
    codes = [guest.wait() for guest in guests]
    if FAILED in codes and not any(guest.has_spoken for guest in guests):
        return None
    if set(codes) - {0} == {int(pytest.ExitCode.TESTS_FAILED)}:
        told = [line for guest in guests for line in guest.failed]
        words = [*patience, *selection.options]
        return _try_again(failed_of(told, selection.tests), cpus[0], words)
    return next((code for code in codes if code != 0), 0)


def failed_of(lines: list[str], tests: list[str]) -> list[str]:
    """Return the tests that these lines of pytest's summary are about, without FAILED or ERROR."""
    return [test for test in tests if any(f"{line} - ".startswith(f"{test} - ") for line in lines)]


def _try_again(tests: list[str], cpu: int, options: list[str]) -> int:
    """See whether the few that failed pass alone, as scripts/test.sh does; return the exit code."""
    if not 0 < len(tests) <= MOST_TRIED_AGAIN:
        return int(pytest.ExitCode.TESTS_FAILED)
    print("== testing again what failed, in one guest", flush=True)
    code = _Guest("guest again", cpu, _pytest_words(options, tests)).wait()
    if code == 0:
        print("\n".join(f"UNSTEADY {test}" for test in tests), flush=True)
    return code


def _bed_words(cpu: int) -> list[str]:
    passed_on = [name for name in ("JOBRUNTIME_LONG", "CI") if name in os.environ]
    return [
        *(sys.executable, "-m", "tests.bed.uml", "--venv", sys.prefix, "--cpu", str(cpu)),
        *("--disk", "256M", "--swap", "64M", "--timeout", str(GUEST_S)),
        *("--env", f"JOBRUNTIME_PATIENCE={PATIENCE}"),
        *(f"--env={name}" for name in passed_on),
    ]


def _pytest_words(options: list[str], tests: list[str]) -> list[str]:
    marks = ["-m", "v2 and not long"]  # the arguments may name others
    return [sys.executable, "-m", "pytest", "-v", "--no-header", *marks, *options, "-n0", *tests]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
