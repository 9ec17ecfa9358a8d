"""The filter of system calls: what it answers on both machines, and that the kernel holds it."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from jobruntime.linux import seccomp
from jobruntime.linux.namespaces import CLONE_NEWNS, CLONE_NEWUSER

ALLOW = 0x7FFF0000
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NUMBERS = {"x86_64": seccomp._X86_64, "aarch64": seccomp._AARCH64}
CONDITIONAL = {"clone", "clone3", "unshare", "ioctl", "socket"}
SIGCHLD = 17
TIOCSTI, TCGETS = 0x5412, 0x5401
AF_UNIX, AF_VSOCK = 1, 40


def answer(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """Run the program as the kernel does; return 0 for "go on", or the errno."""
    code = seccomp.assemble_filter(machine)
    assert code is not None
    data = struct.pack("=iIQ6Q", number, arch or ARCHES[machine], 0, *(*arguments, *[0] * 6)[:6])
    place, loaded = 0, 0
    while True:
        operation, if_true, if_false, value = struct.unpack_from("HBBI", code, 8 * place)
        place += 1
        if operation == 0x06:
            return 0 if value == ALLOW else value & 0xFFFF
        if operation == 0x20:
            (loaded,) = struct.unpack_from("=I", data, value)
            continue
        holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}
        place += if_true if holds[operation] else if_false


@pytest.mark.parametrize("machine", ARCHES)
def test_every_call_of_the_list_is_refused_and_its_neighbours_are_not(machine: str) -> None:
    numbers = {**NUMBERS[machine], **seccomp._COMMON}
    refused = {number for name, number in numbers.items() if name not in CONDITIONAL}
    assert {n for n in range(600) if answer(machine, n) == errno.EPERM} == refused
    assert answer(machine, numbers["clone3"]) == errno.ENOSYS


@pytest.mark.parametrize("machine", ARCHES)
def test_calls_with_two_uses_are_refused_for_the_one(machine: str) -> None:
    numbers = NUMBERS[machine]
    for bit in (0x20000, *(1 << n for n in range(25, 31))):
        assert answer(machine, numbers["clone"], bit | SIGCHLD) == errno.EPERM
        assert answer(machine, numbers["unshare"], bit) == errno.EPERM
    assert answer(machine, numbers["clone"], 0x3D0F00) == 0  # a thread, as libc makes it
    assert answer(machine, numbers["clone"], SIGCHLD) == 0
    assert answer(machine, numbers["unshare"], 0x400) == 0  # CLONE_FILES
    assert answer(machine, numbers["ioctl"], 0, TIOCSTI) == errno.EPERM
    # The kernel takes the lower half only: what stands above must not hide it.
    assert answer(machine, numbers["ioctl"], 0, TIOCSTI | 1 << 40) == errno.EPERM
    assert answer(machine, numbers["ioctl"], 0, TCGETS) == 0
    assert answer(machine, numbers["socket"], AF_VSOCK) == errno.EPERM
    assert answer(machine, numbers["socket"], AF_UNIX) == 0


def test_calls_of_another_architecture_are_refused_whole() -> None:
    for number in (1, 39, 59):
        assert answer("x86_64", number, arch=0x40000003) == errno.ENOSYS  # AUDIT_ARCH_I386
        assert answer("x86_64", 0x40000000 | number) == errno.ENOSYS  # x32
    assert seccomp.assemble_filter("mips") is None


PROBE = """
import ctypes, errno, json, os, sys
sys.path.insert(0, {source!r})
from jobruntime.linux import seccomp
from jobruntime.linux.libc import set_no_new_privileges
libc = ctypes.CDLL(None, use_errno=True)
os.setresuid(65534, 65534, 65534) if os.geteuid() == 0 else None

def ask(number, *arguments):
    # In a process of its own: one of these may succeed, and change what it does to this one.
    reader, writer = os.pipe()
    if not os.fork():
        result = libc.syscall(number, *map(ctypes.c_long, (*arguments, *[0] * 6)[:6]))
        os.write(writer, str(ctypes.get_errno() if result < 0 else 0).encode())
        os._exit(0)
    os.close(writer)
    told = os.read(reader, 100)
    os.close(reader)
    os.wait()
    return int(told)

calls = json.loads(sys.argv[1])
before = [ask(*call) for call in calls]
set_no_new_privileges()
seccomp.install_filter()
print(json.dumps([before, [ask(*call) for call in calls]]))
"""


def test_the_kernel_answers_so_and_answered_otherwise_before() -> None:
    machine = os.uname().machine
    numbers = {**NUMBERS[machine], **seccomp._COMMON}
    # With arguments that a kernel without the filter refuses for another reason, or takes.
    calls = {
        "mount": (numbers["mount"],),
        "umount2": (numbers["umount2"],),
        "unshare": (numbers["unshare"], CLONE_NEWUSER),
        "clone": (numbers["clone"], CLONE_NEWNS | 0x200, 0),  # CLONE_FS beside it: EINVAL
        "clone3": (numbers["clone3"],),
        "ptrace": (numbers["ptrace"],),
        "process_vm_readv": (numbers["process_vm_readv"], 0),
        "keyctl": (numbers["keyctl"], 99),
        "bpf": (numbers["bpf"], 9999),
        "io_uring_setup": (numbers["io_uring_setup"],),
        "ioctl": (numbers["ioctl"], -1, TIOCSTI),
        "setns": (numbers["setns"], -1),
        "open_tree": (numbers["open_tree"], -1),
        "fsopen": (numbers["fsopen"],),
        "pidfd_getfd": (numbers["pidfd_getfd"], -1),
    }
    source = str(Path(seccomp.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(source=source), json.dumps(list(calls.values()))],
        capture_output=True,
        check=True,
        timeout=60,
    )
    before, after = (dict(zip(calls, told, strict=True)) for told in json.loads(done.stdout))
    expected = dict.fromkeys(calls, errno.EPERM) | {"clone3": errno.ENOSYS}
    assert after == expected
    # As another user some are forbidden anyway; the others show that it was the filter.
    told_otherwise = {name for name in calls if before[name] != expected[name]}
    assert told_otherwise >= {"ptrace", "clone", "clone3", "ioctl", "setns", "process_vm_readv"}


def test_the_program_is_one_that_the_kernel_takes_whole() -> None:
    code = seccomp.assemble_filter("x86_64")
    assert code is not None
    assert len(code) // ctypes.sizeof(ctypes.c_uint64) < 4096  # BPF_MAXINSNS
