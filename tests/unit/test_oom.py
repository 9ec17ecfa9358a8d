"""Whom the keeper takes for a victim of the out-of-memory killer."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from jobruntime.keeper.oom import OomBlame
from jobruntime.model.usage import Oom, OomScope


def test_a_leader_that_ended_by_itself_is_no_victim_though_it_was_taken_for_dying(
    tmp_path: Path,
) -> None:
    events = tmp_path / "memory.events"
    events.write_text("oom 0\noom_kill 0\n")
    fd = os.open(events, os.O_RDONLY)
    leader = os.posix_spawn("/bin/true", ["true"], {})
    try:
        oom = OomBlame(fd)
        events.write_text("oom 1\noom_kill 1\n")  # a child of the leader's
        os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)
        found = oom.look(None, leader)
        assert found == Oom(OomScope.JOB, 1, leader=True)
        acquitted = oom.judge(found, was_killed=False, by_keeper=False)
        assert acquitted == Oom(OomScope.JOB, 1, leader=False)
        assert oom.judge(found, was_killed=True, by_keeper=True) == found
    finally:
        os.waitpid(leader, 0)
        os.close(fd)
    for was_killed in (True, False):
        assert OomBlame(-1).judge(None, was_killed=was_killed, by_keeper=False) is None


def test_a_leader_whose_signal_comes_after_its_event_is_a_victim_however_long_it_takes_to_end(
    tmp_path: Path,
) -> None:
    events = tmp_path / "memory.events"
    events.write_text("oom 0\noom_kill 0\n")
    fd = os.open(events, os.O_RDONLY)
    leader = os.posix_spawn("/bin/sleep", ["sleep", "600"], {})
    try:
        oom = OomBlame(fd)
        assert oom.look_again(None, leader) is None
        events.write_text("oom 1\noom_kill 1\n")
        found = oom.look(None, leader)
        assert found == Oom(OomScope.JOB, 1, leader=False)
        assert oom.look_again(found, leader) is None
        os.kill(leader, signal.SIGKILL)
        assert oom.look_again(found, leader) == Oom(OomScope.JOB, 1, leader=True)
        assert oom.look_again(found, None) is None
    finally:
        os.waitpid(leader, 0)
        os.close(fd)
