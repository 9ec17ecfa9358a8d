"""Clients that die without a word: what they held in the server is given back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support import Client, Instance, count_fds, eventually

PROCESSES = 5
CONNECTIONS = 10

# Many followers, each over a connection of its own, in a process that can be killed.
FOLLOW = """
import os, sys
from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub
from jobruntime.rpc.tls import channel_credentials, grpc

job, count = sys.argv[1], int(sys.argv[2])
env = os.environ
credentials = channel_credentials(env["JOBC_CA"], env["JOBC_CERT"], env["JOBC_KEY"])
options = [("grpc.use_local_subchannel_pool", 1)]
channels = [grpc.secure_channel(env["JOBC_ADDR"], credentials, options) for _ in range(count)]
request = pb.LogsRequest(job=job, follow=True)
streams = [JobServiceStub(channel).Logs(request) for channel in channels]
for stream in streams:
    next(stream)  # the first piece; the next one never comes
print("following", flush=True)
next(streams[0])
"""


def count_watches(pid: int) -> int:
    """Return how many inotify watches the process has."""
    count = 0
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            count += path.read_text().count("inotify wd:")
        except FileNotFoundError:
            pass  # closed meanwhile
    return count


def start_followers(client: Client, job: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", FOLLOW, job, str(CONNECTIONS)],
        env=client.env | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )


def test_followers_that_were_killed_leave_nothing_in_the_server(instance: Instance) -> None:
    alice = instance.issue("alice", "user")
    job = alice.start("--", "sh", "-c", "echo hello; exec sleep 600")
    alice.output("logs", "--no-follow", job)  # what the server loads once, it has loaded
    base = settled_fds(instance)
    watches = count_watches(instance.pid)  # of its certificates

    followers = [start_followers(alice, job) for _ in range(PROCESSES)]
    for follower in followers:
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"following\n"
    # A socket and the open log for each; one watch for all, for they follow one file.
    assert count_fds(instance.pid) >= base + 2 * PROCESSES * CONNECTIONS
    assert count_watches(instance.pid) == watches + 1
    for follower in followers:
        follower.send_signal(signal.SIGKILL)
        follower.wait(10)
        assert follower.stdout is not None
        follower.stdout.close()

    eventually(lambda: count_watches(instance.pid) == watches, what="the end of the watch")
    eventually(lambda: count_fds(instance.pid) <= base, what="the fds of the followers")
    assert alice.status(job) == "running"
    assert alice.output("logs", "--no-follow", "--raw", job) == b"hello\n"


def settled_fds(instance: Instance) -> int:
    """Return the server's fds once no connection of the client's is left."""
    seen: list[int] = []

    def is_steady() -> bool:
        seen.append(count_fds(instance.pid))
        return len(seen) > 50 and len(set(seen[-50:])) == 1

    eventually(is_steady)
    return seen[-1]
