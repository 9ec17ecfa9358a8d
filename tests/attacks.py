"""What a hostile job tries, as a program of its own that is run in jobs and, to prove it, outside.

    attacks.py '{"tries": ["read_memory", ...], "pid": 4711, ...}'

It prints one JSON object: for each attempt "ok" if it succeeded, else the name of its errno. The
standard library only, and nothing of this project: any user's python3 runs it. `become` in the
places has it take another uid first, `userns` has it enter a user namespace of its own.

    attacks.py --with-key COMMAND...    executes COMMAND with a key in its session keyring
"""

from __future__ import annotations

import array
import ctypes
import errno
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
SYS = {
    "x86_64": {"ptrace": 101, "getfd": 438, "readv": 310, "writev": 311, "bpf": 321, "keyctl": 250}
    | {"pivot_root": 155, "add_key": 248, "setns": 308, "mknod": 259, "kcmp": 312},
    "aarch64": {"ptrace": 117, "getfd": 438, "readv": 270, "writev": 271, "bpf": 280, "keyctl": 219}
    | {"pivot_root": 41, "add_key": 217, "setns": 268, "mknod": 33, "kcmp": 272},
}[os.uname().machine]
PTRACE_SEIZE = 0x4206
NEW_NAMESPACES = {"mnt": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000}
NEW_NAMESPACES |= {"uts": 0x4000000, "cgroup": 0x2000000}
NEW_USER = 0x10000000
KEY = b"jobd-test-key"

ORDINARY_UID = 54_321
"""Nobody's."""

Places = dict[str, object]


def any_users_python() -> str:
    """Return a Python that an ordinary user can run; that of the tests may be out of his reach."""
    for path in ("/usr/bin/python3", os.path.realpath(sys.executable)):
        if os.access(path, os.X_OK):
            done = subprocess.run(
                [path, "-I", "-c", "import ctypes, resource"],
                user=ORDINARY_UID,
                group=ORDINARY_UID,
                extra_groups=[],
                capture_output=True,
                check=False,
            )
            if done.returncode == 0:
                return path
    raise AssertionError("there is no python3 here that an ordinary user can run")


def called(result: int) -> int:
    """Return the result of a system call; raises OSError where it failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def system(name: str, *args: object) -> int:
    """Make a system call that the standard library lacks."""
    words = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    return called(LIBC.syscall(ctypes.c_long(SYS[name]), *words))


def in_child(work: Callable[[], object]) -> None:
    """Do in a forked child what this process could not undo."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        code = 0
        try:
            work()
        except OSError as error:
            code = error.errno or errno.EIO
        os.write(writer, str(code).encode())
        os._exit(0)
    os.close(writer)
    code = int(os.read(reader, 16) or str(errno.EIO))
    os.close(reader)
    os.waitpid(pid, 0)
    if code:
        raise OSError(code, os.strerror(code))


# ---------------------------------------------------------------- another job, and the server


def _number(places: Places, key: str) -> int:
    value = places[key]
    assert isinstance(value, int)
    return value


def _read(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, 4096)
    os.close(fd)


def read_memory_file(places: Places) -> None:
    """Read the victim's secret out of /proc/PID/mem."""
    fd = os.open(f"/proc/{places['pid']}/mem", os.O_RDONLY)
    assert os.pread(fd, len(str(places["secret"])), _number(places, "at")) == _secret(places)


def write_memory_file(places: Places) -> None:
    """Write it there, as it is."""
    fd = os.open(f"/proc/{places['pid']}/mem", os.O_RDWR)
    assert os.pwrite(fd, _secret(places), _number(places, "at")) == len(_secret(places))


def _secret(places: Places) -> bytes:
    return str(places["secret"]).encode()


def _vectors(places: Places, data: bytes) -> tuple[object, object, object]:
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    buffer = ctypes.create_string_buffer(data, len(data))
    local = Vector(ctypes.addressof(buffer), len(data))
    remote = Vector(_number(places, "at"), len(data))
    return buffer, ctypes.byref(local), ctypes.byref(remote)


def read_memory_call(places: Places) -> None:
    """process_vm_readv(2)."""
    buffer, local, remote = _vectors(places, bytes(len(_secret(places))))
    system("readv", _number(places, "pid"), local, 1, remote, 1, 0)
    assert buffer.raw == _secret(places)  # type: ignore[attr-defined]


def write_memory_call(places: Places) -> None:
    """process_vm_writev(2)."""
    _, local, remote = _vectors(places, _secret(places))
    system("writev", _number(places, "pid"), local, 1, remote, 1, 0)


def trace(places: Places) -> None:
    """PTRACE_SEIZE, which does not stop the tracee; it ends with the child that does it."""
    in_child(lambda: system("ptrace", PTRACE_SEIZE, _number(places, "pid"), 0, 0))


def take_descriptor(places: Places) -> None:
    """pidfd_getfd(2)."""
    pidfd = os.pidfd_open(_number(places, "pid"))
    os.close(system("getfd", pidfd, 1, 0))


def signal_by_pidfd(places: Places) -> None:
    """pidfd_send_signal(2)."""
    signal.pidfd_send_signal(os.pidfd_open(_number(places, "pid")), signal.SIGCONT)


def limit_victim(places: Places) -> None:
    """prlimit(2) of another process."""
    pid = _number(places, "pid")
    resource.prlimit(pid, resource.RLIMIT_CORE, resource.prlimit(pid, resource.RLIMIT_CORE))


def pin_victim(places: Places) -> None:
    """sched_setaffinity(2) of another process."""
    pid = _number(places, "pid")
    os.sched_setaffinity(pid, os.sched_getaffinity(pid))


def renice_victim(places: Places) -> None:
    """setpriority(2) of another process."""
    pid = _number(places, "pid")
    os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid))


def compare_victim(places: Places) -> None:
    """kcmp(2)."""
    system("kcmp", os.getpid(), _number(places, "pid"), 0, 1, 1)


def enter_victim(places: Places) -> None:
    """setns(2) into the victim's namespaces."""
    in_child(lambda: system("setns", os.pidfd_open(_number(places, "pid")), NEW_NAMESPACES["uts"]))


def make_it_an_oom_victim(places: Places) -> None:
    """Write /proc/PID/oom_score_adj."""
    path = f"/proc/{places['pid']}/oom_score_adj"
    with open(path) as file:
        text = file.read()
    with open(path, "w") as file:
        file.write(text)


def forge(places: Places) -> None:
    """Give the spawner an order; a greeting is the proof that it would be listened to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(20)
        sock.connect(f"{places['runtime']}/spawner.sock")
        sock.send(json.dumps({"op": "retire"}).encode())
        if not sock.recv(4096):
            raise OSError(errno.ECONNRESET, "it hung up")


def forge_stop(places: Places) -> None:
    """Tell the victim's keeper to go on (which changes nothing), and wait for its word."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(20)
        sock.connect(f"{places['runtime']}/keepers/{places['job']}")
        if not sock.recv(65536):
            raise OSError(errno.ECONNRESET, "it hung up")


# ---------------------------------------------------------------- more rights than it has


def run_setuid(places: Places) -> None:
    """Execute a program that is root's and set-uid."""
    _expect(f"{places['programs']}/setuid-id", "0", "-u")


def run_setgid(places: Places) -> None:
    """Execute a program that is set-gid."""
    _expect(f"{places['programs']}/setgid-id", "0", "-g")


def run_with_file_capabilities(places: Places) -> None:
    """Execute a program whose file gives capabilities."""
    path = f"{places['programs']}/capable-cat"
    text = subprocess.run([path, "/proc/self/status"], stdout=subprocess.PIPE, check=True).stdout
    fields = dict(line.split(":\t") for line in text.decode().splitlines() if ":\t" in line)
    if not int(fields["CapEff"], 16):
        raise PermissionError(errno.EPERM, "no capability")


def _expect(path: str, wanted: str, *args: str) -> None:
    done = subprocess.run([path, *args], stdout=subprocess.PIPE, check=True)
    if done.stdout.decode().strip() != wanted:
        raise PermissionError(errno.EPERM, "no change of user")


def mount(places: Places) -> None:
    """Mount a tmpfs on a directory of its own, and unmount it."""
    target = os.fsencode(str(places["mine"]))
    called(LIBC.mount(b"none", target, b"tmpfs", 0, None))
    called(LIBC.umount2(target, 0))


def bind_over(places: Places) -> None:
    """Put a directory of its own over another one."""
    target = os.fsencode(str(places["mine"]))
    called(LIBC.mount(b"/etc", target, None, 4096, None))
    called(LIBC.umount2(target, 0))


def remount(places: Places) -> None:
    """Change the flags of a mount to what they are: MS_REMOUNT|MS_BIND."""
    called(LIBC.mount(b"none", b"/proc", None, 32 | 4096, None))


def unshare_any(places: Places) -> None:
    """unshare(2) of every namespace but that of users; one that works is enough."""
    failed = None
    for flag in NEW_NAMESPACES.values():
        try:
            in_child(lambda flag=flag: called(LIBC.unshare(flag)))  # type: ignore[misc]
        except OSError as error:
            failed = error
        else:
            return
    assert failed is not None
    raise failed


def change_root(places: Places) -> None:
    """chroot(2)."""
    in_child(lambda: os.chroot("/"))


def make_device(places: Places) -> None:
    """Make a character device, that of /dev/mem."""
    path = os.path.join(str(places["mine"]), "device")
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 1))
    os.unlink(path)


def become_root(places: Places) -> None:
    """setuid(2)."""
    in_child(lambda: os.setresuid(0, 0, 0))


def become_roots_group(places: Places) -> None:
    """setgid(2)."""
    in_child(lambda: os.setresgid(0, 0, 0))


def join_groups(places: Places) -> None:
    """setgroups(2)."""
    in_child(lambda: os.setgroups([0]))


def give_away(places: Places) -> None:
    """chown(2) to root."""
    path = os.path.join(str(places["mine"]), "given")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    try:
        os.chown(path, 0, 0)
    finally:
        os.unlink(path)


def gain_priority(places: Places) -> None:
    """nice(2) below 0."""
    in_child(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))


def name_host(places: Places) -> None:
    """sethostname(2), to what it is."""
    name = os.uname().nodename.encode()
    called(LIBC.sethostname(name, len(name)))


def open_raw_socket(places: Places) -> None:
    """See the whole network."""
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()


def load_bpf(places: Places) -> None:
    """Make a map of the kind that needs a right (BPF_MAP_CREATE of a hash for prog arrays)."""
    attributes = array.array("I", [3, 4, 4, 1, 0, 0, *([0] * 20)])  # BPF_MAP_TYPE_PROG_ARRAY
    address, _ = attributes.buffer_info()
    os.close(system("bpf", 0, ctypes.c_void_p(address), len(attributes) * 4))


def set_clock(places: Places) -> None:
    """clock_settime(2) of a clock that cannot be set is EINVAL, so this looks at the right only."""
    import time

    time.clock_settime_ns(time.CLOCK_REALTIME, time.clock_gettime_ns(time.CLOCK_REALTIME))


def find_key(places: Places) -> None:
    """Find the key that was in the session keyring of whoever started all this."""
    system("keyctl", 10, -3, b"user", KEY, 0)


SELF: dict[str, Callable[[Places], None]] = {
    work.__name__: work
    for work in (
        *(read_memory_file, write_memory_file, read_memory_call, write_memory_call, trace),
        *(take_descriptor, signal_by_pidfd, limit_victim, pin_victim, renice_victim),
        *(compare_victim, enter_victim, make_it_an_oom_victim, forge, forge_stop),
        *(run_setuid, run_setgid, run_with_file_capabilities, mount, bind_over, remount),
        *(unshare_any, change_root, make_device, become_root, become_roots_group),
        *(join_groups, give_away, gain_priority, name_host, open_raw_socket),
        *(load_bpf, set_clock, find_key),
    )
}


def attempt(name: str, places: Places) -> None:
    """Do what the name says: a function above, or `VERB:TEMPLATE` with places filled in."""
    if name in SELF:
        SELF[name](places)
        return
    verb, _, template = name.partition(":")
    path = template.format_map(places)
    match verb:
        case "read":
            _read(path)
        case "list":
            os.listdir(path)
        case "open":
            os.close(os.open(path, os.O_RDONLY))
        case "write":  # opened is enough: what is written might do harm in the proof
            os.close(os.open(path, os.O_WRONLY))
        case "link":
            os.readlink(path)
        case "make":
            os.mkdir(path)
            os.rmdir(path)
        case "create":
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            os.unlink(path)
        case "connect":
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(path)
        case "signal":
            os.kill(int(path), signal.SIGCONT)
        case _:
            raise AssertionError(name)


def _with_key(command: list[str]) -> None:
    system("keyctl", 1, None)
    system("add_key", b"user", KEY, b"secret", 6, -3)
    os.execvp(command[0], command)


def _enter_user_namespace() -> None:
    uid, gid = os.getuid(), os.getgid()
    called(LIBC.unshare(NEW_USER))
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def main() -> None:
    """Make the attempts, and tell how each went."""
    if sys.argv[1] == "--with-key":
        _with_key(sys.argv[2:])
    places: Places = json.loads(sys.argv[1])
    if uid := places.get("become"):
        assert isinstance(uid, int)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if places.get("userns"):
        try:
            _enter_user_namespace()
        except OSError as error:
            print(json.dumps({"userns": errno.errorcode[error.errno or 0]}))
            return
    tries, told = places["tries"], {}
    assert isinstance(tries, list)
    for name in tries:
        try:
            attempt(name, places)
            told[name] = "ok"
        except OSError as error:
            told[name] = errno.errorcode[error.errno or errno.EIO]
    print(json.dumps(told))


if __name__ == "__main__":
    main()
