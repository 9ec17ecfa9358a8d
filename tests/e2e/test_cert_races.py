"""Certificate commands, renewals and reloads that meet each other."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509

from jobruntime.server.authorities import add_revoked, premises_at
from jobruntime.server.issued import ca_id, changing
from jobruntime.server.pki import read_certificate
from tests.conftest import MakeInstance
from tests.support import BIN, IS_ROOT, Instance, eventually, is_alive, status_fields


@pytest.mark.parametrize("over", ["the command", "the API"])
def test_who_is_revoked_while_he_is_renewed_gets_nothing(instance: Instance, over: str) -> None:
    alice = instance.issue("alice", "user")
    premises = premises_at(instance.directory)
    old = x509.load_pem_x509_certificate(alice.cert.read_bytes())
    words = ("cert", "renew", "alice", f"--dir={instance.directory}")
    with changing(premises.pki_dir):
        if over == "the API":
            renewing = alice.popen("renew")
        else:
            renewing = subprocess.Popen(
                [BIN / "jobd", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        eventually(
            lambda: any("->" in line for line in Path("/proc/locks").read_text().split("\n")),
            what="who waits for the lock",
        )
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        ca = ca_id(read_certificate(premises.ca.certificate))
        add_revoked(premises, ca, [old.serial_number], now)
    with renewing:
        assert renewing.stderr is not None
        told = renewing.stderr.read()
        assert b"revoked" in told
        assert renewing.wait(30) == 1
    assert x509.load_pem_x509_certificate(alice.cert.read_bytes()) == old


@pytest.mark.skipif(not IS_ROOT, reason="without root there is no monitor")
def test_whoever_gives_up_a_renewal_leaves_nobody_his_answer(instance: Instance) -> None:
    carol, bob = instance.issue("carol", "user"), instance.issue("bob", "user")
    os.kill(instance.monitor_pid, signal.SIGSTOP)
    try:
        with carol.popen("renew") as renewing:
            time.sleep(2)  # until it waits for the monitor; where it does not yet, nothing is tried
            renewing.send_signal(signal.SIGINT)
            assert renewing.wait(30) == 130
    finally:
        os.kill(instance.monitor_pid, signal.SIGCONT)
    for _ in range(2):
        assert bob.run("renew").returncode == 0
    assert bob.start("true")


def hears_hangups(pid: int) -> bool:
    fields = status_fields(pid)
    heard = int(fields.get("SigIgn", "0"), 16) | int(fields.get("SigCgt", "0"), 16)
    return bool(heard & 1 << (signal.SIGHUP - 1))


def test_a_reload_that_is_asked_for_too_early_ends_no_server(make_instance: MakeInstance) -> None:
    instance = make_instance(serve=False)
    serves = threading.Event()

    def hang_up() -> None:
        while instance._process is None or not hears_hangups(instance.monitor_pid):
            time.sleep(0.001)
        while not serves.wait(0.01) and is_alive(instance.monitor_pid):
            os.kill(instance.monitor_pid, signal.SIGHUP)

    thread = threading.Thread(target=hang_up)
    thread.start()
    try:
        instance.start()
    finally:
        serves.set()
        thread.join()
    assert instance.admin.start("true")
