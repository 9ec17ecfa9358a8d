"""Real instances of jobd, their clients, and what the kernel tells of both.

    with Instance(tmp_path / "instance") as instance:
        alice = instance.issue("alice", "user")
        job = alice.start("sleep", "60")

Leaving the `with` stops server and jobs and fails where anything of them is left on the host.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TypeVar, cast

from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub
from jobruntime.rpc.tls import CHANNEL_OPTIONS, channel_credentials, grpc
from jobruntime.server.config import Config, instance_tag, read_config

T = TypeVar("T")

BIN: Final = Path(sys.executable).parent
LONG: Final = os.environ.get("JOBRUNTIME_LONG") == "1"
IS_ROOT: Final = os.geteuid() == 0
PATIENCE: Final = float(os.environ.get("JOBRUNTIME_PATIENCE", "1"))  # more of it in a slow guest
DEADLINE_S: Final = 30.0 * PATIENCE
RUN_S: Final = 60.0 * PATIENCE
LOGS_S: Final = 100.0 * PATIENCE
MIB: Final = 1 << 20


def scaled(usual: int, full: int) -> int:
    """Return the size that the tests use here: `full` in `make test-long`."""
    return full if LONG else usual


def eventually(
    predicate: Callable[[], T | Literal[False] | None],
    deadline_s: float = DEADLINE_S,
    what: str = "the condition",
) -> T:
    """Return the first true value of `predicate`; for what gives no event to wait for."""
    give_up_at = time.monotonic() + deadline_s
    while True:
        if value := predicate():
            return value
        assert time.monotonic() < give_up_at, f"{what}: not within {deadline_s:g}s"
        time.sleep(0.01)


@contextmanager
def public_directory() -> Iterator[Path]:
    """Give a directory that every job can reach and read, isolated ones too where this is root."""
    parent = "/srv" if os.access("/srv", os.W_OK) else "/tmp"
    with tempfile.TemporaryDirectory(dir=parent, prefix="jobs-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def free_port() -> int:
    """Return a port that nobody listens on, below those that the kernel gives to connections."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def jobd(
    *args: str | Path, home: Path, timeout: float = RUN_S
) -> subprocess.CompletedProcess[bytes]:
    """Run the real `jobd` with nothing of this user's settings."""
    return subprocess.run(
        [BIN / "jobd", *args],
        env=_environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        check=False,
    )


def _environment(home: Path) -> dict[str, str]:
    kept = {key: os.environ[key] for key in ("PATH",) if key in os.environ}
    return kept | {"HOME": str(home), "LANG": "C.UTF-8"}


# ---------------------------------------------------------------- what the kernel tells


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment with which the process was executed; empty where it is gone."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in data.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


def command_of(pid: int) -> list[str]:
    """Return the command line of the process; empty where it is gone or a zombie."""
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(word) for word in data.split(b"\0")[:-1]]


def status_fields(pid: int) -> dict[str, str]:
    """Return /proc/PID/status; empty where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def all_pids() -> list[int]:
    """Return every process of this host that is visible here."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def processes_of(job_id: str) -> set[int]:
    """Return the living processes of a job, whatever their session, parent or group."""
    return {
        pid for pid in all_pids() if environment_of(pid).get("JOB_ID") == job_id and is_alive(pid)
    }


# Each process forks the next one and ends. A look at the process table rarely meets any: the next
# one's pid is higher than the last of the list. So each leaves a byte behind.
CHAIN: Final = """
(setsid sh -c 'hop() { echo >>"$HOME/hops"; sleep 0.002; (hop) & exit 0; }; hop' &)
exec sleep 600
"""


def chain_length(instance: Instance, job_id: str) -> int:
    """Return how many processes the chain of the job has had until now."""
    hops = instance.work_dir / job_id / "hops"
    return hops.stat().st_size if hops.exists() else 0


def assert_chain_ended(instance: Instance, job_id: str) -> None:
    """Assert that the chain of the job, which has been told to be over, has no next process."""
    before = chain_length(instance, job_id)
    assert not processes_of(job_id)
    time.sleep(0.2)
    assert chain_length(instance, job_id) == before


def is_alive(pid: int) -> bool:
    """Return whether the process runs: neither gone nor a zombie."""
    return status_fields(pid).get("State", "Z")[0] not in "ZX"


def count_fds(pid: int) -> int:
    """Return how many descriptors the process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory_kib(pid: int, key: str = "Pss") -> int:
    """Return a field of /proc/PID/smaps_rollup in KiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


# ---------------------------------------------------------------- a client


@dataclass(frozen=True)
class Log:
    """All that one `Logs` call gave."""

    stdout: bytes
    stderr: bytes
    end: pb.LogsEnd | None
    cursor: str
    chunks: list[pb.LogChunk] = field(default_factory=list)


@dataclass(frozen=True)
class Refusal:
    """How a call was refused: gRPC's code and sentence, and the ErrorInfo's reason."""

    code: grpc.StatusCode
    message: str
    reason: str


def refusal_of(error: grpc.RpcError) -> Refusal:
    """Return what an error of the server's says."""
    call = cast(grpc.Call, error)  # whatever gRPC raises for a call is the call itself, too
    reason = ""
    for key, value in call.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value if isinstance(value, bytes) else b"")
            info = error_details_pb2.ErrorInfo()
            for detail in status.details:
                if detail.Unpack(info):
                    reason = info.reason
    return Refusal(call.code(), call.details() or "", reason)


class Api:
    """The RPCs over one open channel, with a deadline for each."""

    def __init__(self, stub: JobServiceStub, isolate: str = "") -> None:
        self.stub = stub
        word = isolate.upper().replace("-", "_") or "UNSPECIFIED"
        self._isolate = pb.Isolation.Value(f"ISOLATION_{word}")

    def start(self, *argv: str | bytes, **fields: object) -> str:
        """Start a job and return its id; `fields` are those of StartRequest."""
        fields.setdefault("isolate", self._isolate)
        request = pb.StartRequest(**fields)  # type: ignore[arg-type]
        if any(isinstance(word, bytes) for word in argv):
            request.argv_bytes.extend(os.fsencode(word) for word in argv)
        else:
            request.argv.extend(str(word) for word in argv)
        return str(self.stub.Start(request, timeout=DEADLINE_S).job_id)

    def stop(
        self, job: str, *, grace_ms: int | None = None, signo: int | None = None
    ) -> pb.JobStatus:
        """Stop a job and return its status."""
        request = pb.StopRequest(job=job)
        if grace_ms is not None:
            request.grace_ms = grace_ms
        if signo is not None:
            request.signal = signo
        response: pb.StopResponse = self.stub.Stop(request, timeout=DEADLINE_S)
        return response.status

    def status(self, job: str) -> pb.JobStatus:
        """Return a job's status."""
        response: pb.StatusResponse = self.stub.Status(
            pb.StatusRequest(job=job), timeout=DEADLINE_S
        )
        return response.status

    def update(self, job: str, **limits: object) -> pb.JobStatus:
        """Change limits of a job and return its status; `limits` are the fields of Limits."""
        request = pb.UpdateRequest(job=job, limits=pb.Limits(**limits))  # type: ignore[arg-type]
        response: pb.UpdateResponse = self.stub.Update(request, timeout=DEADLINE_S)
        return response.status

    def pause(self, job: str) -> pb.JobStatus:
        """Pause a job and return its status."""
        response: pb.PauseResponse = self.stub.Pause(pb.PauseRequest(job=job), timeout=DEADLINE_S)
        return response.status

    def resume(self, job: str) -> pb.JobStatus:
        """Let a paused job go on and return its status."""
        response: pb.ResumeResponse = self.stub.Resume(
            pb.ResumeRequest(job=job), timeout=DEADLINE_S
        )
        return response.status

    def remove(self, job: str) -> pb.RemoveResponse:
        """Remove a job that has ended."""
        response: pb.RemoveResponse = self.stub.Remove(
            pb.RemoveRequest(job=job), timeout=DEADLINE_S
        )
        return response

    def prune(self, **fields: object) -> pb.PruneResponse:
        """Remove jobs that have ended; `fields` are those of PruneRequest."""
        request = pb.PruneRequest(**fields)  # type: ignore[arg-type]
        response: pb.PruneResponse = self.stub.Prune(request, timeout=DEADLINE_S)
        return response

    def entries(
        self, job: str, *, follow: bool = True, timeout: float = LOGS_S
    ) -> tuple[list[pb.LogEntry], pb.LogsEnd]:
        """Return all of a job's log, gaps too."""
        entries: list[pb.LogEntry] = []
        for message in self.stream(job, follow=follow, timeout=timeout):
            entries.extend(message.batch.entries)
        assert message.HasField("end")
        return entries, message.end

    def usage(self, job: str) -> pb.Usage:
        """Return what a job has used so far, or its receipt."""
        [response] = self.stub.Stats(pb.StatsRequest(job=job), timeout=DEADLINE_S)
        return cast(pb.StatsResponse, response).usage

    def stream(
        self, job: str, *, follow: bool = True, cursor: str = "", timeout: float = LOGS_S
    ) -> Iterator[pb.LogsResponse]:
        """Return the messages of a Logs call as they come."""
        request = pb.LogsRequest(job=job, follow=follow, cursor=cursor)
        messages: Iterator[pb.LogsResponse] = self.stub.Logs(request, timeout=timeout)
        return messages

    def logs(
        self, job: str, *, follow: bool = True, cursor: str = "", timeout: float = LOGS_S
    ) -> Log:
        """Return all of a Logs call."""
        return gather(self.stream(job, follow=follow, cursor=cursor, timeout=timeout))

    def wait(self, job: str, timeout: float = RUN_S) -> pb.JobStatus:
        """Return the status of a job once it has ended: the end of its log tells it."""
        for message in self.stream(job, timeout=timeout):
            if message.HasField("end"):
                assert message.end.complete
                return message.end.status
        raise AssertionError("the log ended without its last message")

    def refused(self, call: Callable[[], object]) -> Refusal:
        """Return how `call` was refused; fails where it was not."""
        try:
            result = call()
            if not isinstance(result, Message | str | Log):
                list(result)  # type: ignore[call-overload]
        except grpc.RpcError as error:
            return refusal_of(error)
        raise AssertionError(f"not refused: {result}")


def gather(messages: Iterable[pb.LogsResponse]) -> Log:
    """Return what the messages of a Logs call hold, in order."""
    streams: dict[int, list[bytes]] = {pb.LOG_STREAM_STDOUT: [], pb.LOG_STREAM_STDERR: []}
    end, cursor, chunks = None, "", []
    for message in messages:
        assert end is None, "something came after the end"
        cursor = message.cursor
        if message.HasField("end"):
            end = message.end
        for entry in message.batch.entries:
            assert entry.HasField("chunk"), f"a gap: {entry.gap}"
            streams[entry.chunk.stream].append(entry.chunk.data)
            chunks.append(entry.chunk)
    stdout, stderr = (b"".join(parts) for parts in streams.values())
    return Log(stdout, stderr, end, cursor, chunks)


@dataclass(frozen=True)
class Client:
    """A user with a certificate: the real `jobc`, and raw gRPC."""

    instance: Instance
    name: str
    cert: Path
    key: Path
    isolate: str = ""
    """How this client's jobs are isolated; empty: nothing is said."""

    def isolated(self, way: str) -> Client:
        """Return the same user, whose every job is isolated in this way."""
        return replace(self, isolate=way)

    @property
    def env(self) -> dict[str, str]:
        """The environment of this user's `jobc`."""
        return _environment(self.instance.directory) | {
            "JOBC_ADDR": f"127.0.0.1:{self.instance.port}",
            "JOBC_CA": str(self.instance.ca),
            "JOBC_CERT": str(self.cert),
            "JOBC_KEY": str(self.key),
        }

    def run(
        self, *args: str | bytes | Path, input: bytes | None = None, timeout: float = RUN_S
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `jobc`; whatever its exit code is."""
        if self.isolate and args[0] == "start":
            args = ("start", f"--isolate={self.isolate}", *args[1:])
        stdin: dict[str, object] = {"input": input} if input else {"stdin": subprocess.DEVNULL}
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            [BIN / "jobc", *args],
            env=self.env,
            capture_output=True,
            timeout=timeout,
            check=False,
            **stdin,
        )

    def output(self, *args: str | bytes | Path, timeout: float = RUN_S) -> bytes:
        """Run `jobc`, which must succeed and say nothing on stderr; return its stdout."""
        done = self.run(*args, timeout=timeout)
        assert (done.returncode, done.stderr) == (0, b""), (done.returncode, done.stderr)
        return done.stdout

    def popen(self, *args: str | Path, stdout: int | None = None) -> subprocess.Popen[bytes]:
        """Start `jobc` with pipes; use it as a context manager."""
        return subprocess.Popen(
            [BIN / "jobc", *args],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
        )

    def start(self, *words: str | bytes | Path) -> str:
        """Run `jobc start` (flags first) and return the id, which it prints alone."""
        printed = self.output("start", *words)
        assert re.fullmatch(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n", printed), printed
        return printed.decode().strip()

    def status(self, job: str) -> str:
        """Return the line that `jobc status` prints."""
        printed = self.output("status", job).decode()
        assert printed.endswith("\n")
        assert printed.count("\n") == 1
        return printed[:-1]

    def status_json(self, job: str) -> dict[str, object]:
        """Return what `jobc status -o json` prints."""
        value: dict[str, object] = json.loads(self.output("status", "-o", "json", job))
        return value

    def logs_raw(self, job: str, *flags: str, timeout: float = LOGS_S) -> tuple[bytes, bytes]:
        """Return both streams as `jobc logs --raw` writes them, after the job's end."""
        done = self.run("logs", "--raw", *flags, job, timeout=timeout)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    def stop(self, job: str, *flags: str, timeout: float = RUN_S) -> None:
        """Run `jobc stop`, which must succeed in silence."""
        assert self.output("stop", *flags, job, timeout=timeout) == b""

    @contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        """Give a channel of this user's own."""
        credentials = channel_credentials(self.instance.ca, self.cert, self.key)
        options = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        with grpc.secure_channel(
            f"127.0.0.1:{self.instance.port}", credentials, options
        ) as channel:
            yield channel

    @contextmanager
    def api(self) -> Iterator[Api]:
        """Give the RPCs over a channel of this user's own."""
        with self.channel() as channel:
            yield Api(JobServiceStub(channel), self.isolate)


# ---------------------------------------------------------------- a server


class _ServerOutput:
    """Copies a server's stderr to a file, and tells of its lines as they come."""

    def __init__(self, pipe: int, path: Path) -> None:
        self._changed = threading.Condition()
        self._text = ""
        self._ended = False
        self._thread = threading.Thread(target=self._copy, args=(pipe, path), daemon=True)
        self._thread.start()

    def wait_for(self, pattern: str, deadline_s: float = DEADLINE_S) -> re.Match[str]:
        """Return the first match in what the server has written, waiting for it."""
        give_up_at = time.monotonic() + deadline_s
        with self._changed:
            while (found := re.search(pattern, self._text)) is None:
                left_s = give_up_at - time.monotonic()
                assert not self._ended, f"jobd ended without {pattern!r}:\n{self._text}"
                assert left_s > 0, f"no {pattern!r} within {deadline_s:g}s:\n{self._text}"
                self._changed.wait(left_s)
            return found

    @property
    def text(self) -> str:
        """What the server has written so far."""
        with self._changed:
            return self._text

    def join(self) -> None:
        """Wait until the server's stderr has ended."""
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "somebody still holds the server's stderr"

    def _copy(self, pipe: int, path: Path) -> None:
        with open(pipe, "rb", buffering=0) as source, path.open("ab", buffering=0) as copy:
            while data := source.read(65536):
                copy.write(data)
                with self._changed:
                    self._text += data.decode(errors="replace")
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Instance:
    """One instance of jobd, made by `jobd init` and served by `jobd serve`.

    `edit` changes the text of jobd.toml before the first start; `wrap` stands before the command.
    A restart keeps the port.
    """

    def __init__(
        self,
        directory: Path,
        *,
        edit: Callable[[str], str] | None = None,
        wrap: tuple[str, ...] = (),
        serve: bool = True,
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self.config_path = directory / "jobd.toml"
        self.ca = directory / "pki/ca.crt"
        self.stderr_path = directory.with_name(f"{directory.name}.stderr")
        self._wrap = wrap
        self._serve = serve
        self._process: subprocess.Popen[bytes] | None = None
        self._output: _ServerOutput | None = None
        self._server_pid = 0
        self._clients: dict[str, Client] = {}
        self._init()
        if edit is not None:
            self.config_path.write_text(edit(self.config_path.read_text()))
        self.config: Config = read_config(self.config_path)

    def _init(self) -> None:
        done = jobd(
            *("init", "--dir", self.directory, "--listen", f"127.0.0.1:{self.port}"),
            *("--admin", "admin"),
            home=self.directory.parent,
        )
        assert done.returncode == 0, done.stderr.decode()

    def __enter__(self) -> Self:
        try:
            if self._serve:
                self.start()
        except BaseException:
            self._end_all()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        left = self._end_all()
        assert kind is not None or not left, "left behind: " + "; ".join(left)

    # places

    @property
    def tag(self) -> str:
        """The word that names this instance's places on the host."""
        return instance_tag(self.config.state_dir)

    @property
    def state_dir(self) -> Path:
        """Where jobs, logs and catalogue are."""
        return self.config.state_dir

    @property
    def jobs_dir(self) -> Path:
        """Where each job has its record and log."""
        return self.config.state_dir / "jobs"

    @property
    def work_dir(self) -> Path:
        """Where each job has its own directory."""
        return self.config.work_dir

    @property
    def runtime_dir(self) -> Path:
        """Where the sockets are."""
        if self.config.runtime_dir is not None:
            return self.config.runtime_dir
        if IS_ROOT:
            return Path("/run/jobd", self.tag)
        return self.config.state_dir / "run"

    @property
    def cgroup_root(self) -> Path | None:
        """The instance's cgroup, as the server told it at its start; None: it works without."""
        assert self._output is not None
        told = self._output.wait_for(r"cgroup: (.*)\n")[1]
        return Path(told) if told.startswith("/") else None

    @property
    def controllers(self) -> frozenset[str]:
        """The controllers that jobs can be limited with here, as the server told at its start."""
        told = self.wait_stderr(r"limits that jobs can have: (.*)\n")[1]
        return frozenset() if told == "none" else frozenset(told.split(", "))

    # the server

    @property
    def pid(self) -> int:
        """The gRPC process: as root a child of the one that was started."""
        return self._server_pid

    @property
    def monitor_pid(self) -> int:
        """The process that was started; without root it is the server itself."""
        assert self._process is not None
        return self._process.pid

    @staticmethod
    def _child_of(monitor: int) -> int | None:
        path = Path(f"/proc/{monitor}/task/{monitor}/children")
        children = [int(word) for word in path.read_text().split()]
        return next((p for p in children if "jobruntime.server.child" in command_of(p)), None)

    @property
    def stderr(self) -> str:
        """What the server that runs now (or ran last) has written."""
        assert self._output is not None
        return self._output.text

    def wait_stderr(self, pattern: str, deadline_s: float = DEADLINE_S) -> re.Match[str]:
        """Return the first match in the server's stderr, waiting for it."""
        assert self._output is not None
        return self._output.wait_for(pattern, deadline_s)

    def start(self) -> None:
        """Start the server and return once it serves."""
        assert self._process is None
        self._process = subprocess.Popen(
            [*self._wrap, BIN / "jobd", "serve", "--config", self.config_path],
            env=_environment(self.directory.parent),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert self._process.stderr is not None
        self._output = _ServerOutput(os.dup(self._process.stderr.fileno()), self.stderr_path)
        self._process.stderr.close()
        self.port = int(self._output.wait_for(r"serving on \S+:(\d+);")[1])
        monitor = self.monitor_pid
        self._server_pid = (self._child_of(monitor) or 0) if IS_ROOT else monitor
        assert self._server_pid, "the server is gone"

    def stop(self, *, jobs: bool = False) -> None:
        """Run `jobd stop`: the server and its spawner end, with `jobs` every job before."""
        flags = ["--jobs"] if jobs else []
        done = jobd("stop", "--config", self.config_path, *flags, home=self.directory.parent)
        assert done.returncode == 0, done.stderr.decode()
        self._gone()

    def terminate(self) -> int:
        """Send SIGTERM, wait for the end and return the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._gone()

    def kill(self) -> None:
        """SIGKILL the gRPC process alone."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._gone()

    def restart(self) -> None:
        """Have the server serve anew, after a SIGTERM if it is running."""
        if self._process is not None:
            self.terminate()
        self.start()

    def _gone(self) -> int:
        if self._process is None:
            return 0
        code = self._process.wait(DEADLINE_S)
        self._process = None
        assert self._output is not None
        self._output.join()
        return code

    # what runs

    def spawner_pid(self) -> int | None:
        """Return the spawner's pid, None where there is none."""
        found = [pid for pid in self._own_processes() if self._is(pid, "jobd-spawner")]
        assert len(found) <= 1, f"{len(found)} spawners"
        return found[0] if found else None

    def zygote_pid(self) -> int | None:
        """Return the pid of the process from which keepers are forked, None without one."""
        found = [pid for pid in self._own_processes() if self._is(pid, "jobd-zygote")]
        assert len(found) <= 1, f"{len(found)} zygotes"
        return found[0] if found else None

    def keeper_of(self, job_id: str) -> int | None:
        """Return the pid of a job's keeper: who has made the job's first process."""
        payload = processes_of(job_id)
        parents = {int(status_fields(pid).get("PPid", "0")) for pid in payload} - payload - {0}
        keepers = [pid for pid in parents if self._is(pid, "jobd-keeper")]
        assert len(keepers) <= 1
        return keepers[0] if keepers else None

    def _is(self, pid: int, name: str) -> bool:
        # One command line for spawner and keepers; the kernel's short name tells them apart.
        return status_fields(pid).get("Name") == name and str(self.runtime_dir) in command_of(pid)

    def job_ids(self) -> set[str]:
        """Return the jobs that have a directory in the state directory."""
        return set(os.listdir(self.jobs_dir)) if self.jobs_dir.is_dir() else set()

    def job_cgroups(self) -> set[str]:
        """Return the jobs that have a cgroup."""
        root = self._cgroup_path()
        if root is None or not (root / "jobs").is_dir():
            return set()
        return {entry.name for entry in (root / "jobs").iterdir() if entry.is_dir()}

    def _cgroup_path(self) -> Path | None:
        return self.cgroup_root if self._output is not None else None

    def _own_processes(self) -> set[int]:
        # Spawner and keepers have the instance's directory among their arguments.
        return {pid for pid in all_pids() if str(self.runtime_dir) in command_of(pid)}

    def processes(self) -> set[int]:
        """Return spawner, keepers and all that lives of any job of this instance."""
        jobs = self.job_ids()
        first, count = self.config.uid_first, self.config.uid_count
        found = self._own_processes()
        for pid in all_pids():
            environment = environment_of(pid)
            job, home = environment.get("JOB_ID"), environment.get("HOME", "")
            is_ours = job in jobs or home.startswith(f"{self.work_dir}/")
            if job is None and IS_ROOT:
                # It may have cleared its environment. The uid alone would not do: of hundreds of
                # instances some two have the same range.
                uid = int(status_fields(pid).get("Uid", "0").split()[0])
                is_ours = is_ours or first <= uid < first + count
            if is_ours and is_alive(pid):
                found.add(pid)
        return found

    def traces(self) -> dict[str, object]:
        """Return all that a job leaves on the host, to be compared before and after."""
        places = (self.jobs_dir, self.work_dir, self.runtime_dir)
        spawner, zygote = self.spawner_pid(), self.zygote_pid()
        assert spawner is not None
        assert zygote is not None
        return {
            "files": sorted(str(path) for place in places for path in place.rglob("*")),
            "cgroups": self.job_cgroups(),
            "processes": self.processes(),
            "fds of jobd": count_fds(self.pid),
            "fds of the spawner": count_fds(spawner),
            "fds of the zygote": count_fds(zygote),
        }

    # users

    def issue(self, name: str, *roles: str) -> Client:
        """Return a client of this name, with a certificate made by `jobd cert issue`."""
        if name not in self._clients:
            flags = [f"--role={role}" for role in roles]
            done = jobd(
                "cert", "issue", name, *flags, f"--dir={self.directory}", home=self.directory.parent
            )
            assert done.returncode == 0, done.stderr.decode()
            self._clients[name] = self._client(name)
        return self._clients[name]

    @property
    def admin(self) -> Client:
        """The administrator that `jobd init` made."""
        return self._client("admin")

    def _client(self, name: str) -> Client:
        pair = self.directory / "pki/clients" / name
        return Client(self, name, Path(f"{pair}.crt"), Path(f"{pair}.key"))

    # the end

    def _end_all(self) -> list[str]:
        """End everything, return what should not have been left, and remove that too."""
        try:
            self.stop(jobs=True)
            left = self._left_behind()
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            left = [f"cannot stop the instance: {error}"]
        self._sweep()
        return left

    def _left_behind(self) -> list[str]:
        left = [f"process {pid}: {command_of(pid)}" for pid in self.processes()]
        root = self._cgroup_path()
        if root is not None and root.name == f"jobd-{self.tag}" and root.exists():
            left.append(f"cgroup {root}: {[path.name for path in root.rglob('*/')]}")
        if self.runtime_dir.is_dir():
            left += [str(path) for path in self.runtime_dir.rglob("*") if path.is_socket()]
        return left

    def _sweep(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._gone()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(map(is_alive, self.processes())), what="the end of all")
        root = self._cgroup_path()
        if root is not None and root.name == f"jobd-{self.tag}" and root.exists():
            for path in (*sorted(root.rglob("*/"), reverse=True), root):
                path.rmdir()
        shutil.rmtree(self.runtime_dir, ignore_errors=True)
        if self.directory not in self.work_dir.parents:  # init chose a place that jobs can reach
            shutil.rmtree(self.work_dir, ignore_errors=True)


MakeInstance = Callable[..., Instance]
"""The fixture `make_instance`: a name, and what else Instance takes."""
