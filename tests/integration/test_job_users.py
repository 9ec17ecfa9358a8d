"""As whom jobs run, and with which resource limits: the worker and its spawner, for real."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pwd
import resource
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobruntime.linux import sockets
from jobruntime.linux.files import encode_json
from jobruntime.model.io_rates import NO_IO, encode_io_order
from jobruntime.model.spec import encode_spec
from jobruntime.worker import (
    NO_TERMS,
    Exited,
    JobError,
    JobSpec,
    JobStatus,
    LocalWorker,
    LogBatch,
    Reason,
    Settings,
    Terms,
)
from tests.attacks import ORDINARY_UID, any_users_python
from tests.support import all_pids, command_of, eventually

ROOT = Path(__file__).parent.parent.parent
UID_FIRST = 1_987_000_000
DEADLINE_S = 30.0

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="only root gives jobs other users"
)


def _account() -> pwd.struct_passwd:
    """An account of this host's whose gid is not its uid's number, as any Debian has some."""
    return next(
        user for user in pwd.getpwall() if 0 < user.pw_uid < 1000 != user.pw_gid != user.pw_uid
    )


ACCOUNT = _account() if os.geteuid() == 0 else None
NAME = ACCOUNT.pw_name if ACCOUNT else ""


@pytest.fixture
def settings() -> Iterator[Settings]:
    """Settings of an instance of the test's own, which is ended whatever the test leaves."""
    with tempfile.TemporaryDirectory(prefix="jobd-test-", dir="/var/tmp") as place:
        Path(place).chmod(0o755)
        settings = Settings(
            state_dir=f"{place}/state",
            runtime_dir=f"{place}/run",
            work_dir=f"{place}/work",
            uid_first=UID_FIRST,
            uid_count=100,
            accounts=(NAME,),
        )
        yield settings
        if os.path.exists(settings.state_dir):
            asyncio.run(end(settings))
        assert not any(str(settings.runtime_dir) in command_of(pid) for pid in all_pids())


async def end(settings: Settings) -> None:
    async with LocalWorker(settings) as worker:
        await worker.stop_all(by="the test's end")
        await worker.retire()


async def run(
    worker: LocalWorker,
    script: str,
    *,
    owner: str = "alice",
    terms: Terms = NO_TERMS,
    **more: str,
) -> tuple[str, JobStatus]:
    """Run a shell script to its end; return all its output, and its status."""
    spec = JobSpec(("sh", "-c", script), **more)  # type: ignore[arg-type]
    job = await worker.start(spec, owner=owner, terms=terms)
    status = await worker.wait(job)
    parts = []
    async for event in worker.logs(job):
        if isinstance(event, LogBatch):
            parts += [entry.data for entry in event.entries if hasattr(entry, "data")]
    return b"".join(parts).decode(), status


async def refused(worker: LocalWorker, terms: Terms, **more: str) -> JobError:
    with pytest.raises(JobError) as caught:
        await run(worker, "true", terms=terms, **more)
    return caught.value


WHO = (
    "id -u; id -g; id -G; echo $USER $LOGNAME; stat -c '%u:%g %a' $HOME; "
    "grep CapEff /proc/self/status"
)


def test_a_job_that_is_granted_an_account_runs_as_it_with_its_primary_group_alone(
    settings: Settings,
) -> None:
    assert ACCOUNT is not None
    uid, gid = ACCOUNT.pw_uid, ACCOUNT.pw_gid

    async def main() -> None:
        async with LocalWorker(settings) as worker:
            asked, status = await run(worker, WHO, terms=Terms(account=NAME), user=NAME)
            forced, forced_status = await run(worker, WHO, terms=Terms(account=NAME))
        assert asked == forced
        lines = asked.splitlines()
        assert lines[:3] == [str(uid), str(gid), str(gid)]
        assert lines[3:5] == [f"{NAME} {NAME}", f"{uid}:{gid} 700"]
        assert int(lines[5].split()[1], 16) == 0
        assert status.user == forced_status.user == NAME
        async with LocalWorker(settings) as worker:  # read from the disk again
            assert (await worker.status(status.job_id)).user == NAME

    asyncio.run(main())


def test_a_job_of_an_account_reads_its_own_groups_files(settings: Settings) -> None:
    async def main() -> None:
        async with LocalWorker(settings) as worker:
            root = worker.instance.cgroup_root
            if root is None:
                pytest.skip("no cgroup v2 here that could be written")
            script = f"cat {root}/jobs/$JOB_ID/cgroup.events"
            output, _ = await run(worker, script, terms=Terms(account=NAME))
            assert "populated 1" in output

    asyncio.run(main())


def test_a_user_that_is_not_granted_is_refused_whether_it_exists_or_not(settings: Settings) -> None:
    async def main() -> None:
        async with LocalWorker(settings) as worker:
            for terms in (NO_TERMS, Terms(role="user"), Terms(account=NAME)):
                for user in ("root", "no-such-account", "0", str(UID_FIRST)):
                    error = await refused(worker, terms, user=user)
                    assert error.reason is Reason.PERMISSION_DENIED
                    assert error.message == (
                        f"cannot start the job as user {user!r}: no rule of the policy allows it"
                    )
            error = await refused(worker, NO_TERMS, user=NAME)
            assert error.reason is Reason.PERMISSION_DENIED

    asyncio.run(main())


def test_a_grant_gives_no_account_that_the_settings_do_not_name(settings: Settings) -> None:
    async def main() -> None:
        async with LocalWorker(settings) as worker:
            for name in ("root", "no-such-account"):
                error = await refused(worker, Terms(account=name), user=name)
                assert error.reason is Reason.USER_UNAVAILABLE
                assert "accounts" in error.remedy

    asyncio.run(main())


def test_root_where_it_is_named_is_root_without_capabilities(settings: Settings) -> None:
    async def main() -> None:
        async with LocalWorker(replace(settings, accounts=("root",))) as worker:
            script = f"{WHO}; mount -t tmpfs none $HOME; chown 1 $HOME"
            output, status = await run(worker, script, terms=Terms(account="root"), user="root")
        lines = output.splitlines()
        assert lines[:4] == ["0", "0", "0", "root root"]
        assert int(lines[5].split()[1], 16) == 0
        assert len(lines) > 7  # both said that they may not
        assert status.outcome != Exited(0)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accounts": ("no-such-account",)}, "this host has no such account"),
        (
            {"accounts": (NAME,), "uid_first": ACCOUNT and ACCOUNT.pw_uid},
            "cannot give jobs the uids",
        ),
    ],
    ids=["an account that is not there", "a range with somebody's uid"],
)
def test_users_that_cannot_be_used_are_refused_before_anything_is_made(
    settings: Settings, change: dict[str, object], said: str
) -> None:
    async def main() -> None:
        async with LocalWorker(replace(settings, **change)):  # type: ignore[arg-type]
            pass

    with pytest.raises(JobError) as caught:
        asyncio.run(main())

    assert caught.value.reason is Reason.CONFIG_INVALID
    assert said in caught.value.message
    assert not os.path.exists(settings.state_dir)


WITHOUT_ROOT = """
import asyncio, sys
from jobruntime.worker import JobError, JobSpec, LocalWorker, Settings

async def main():
    settings = Settings(sys.argv[1], uid_first=1_987_000_000, accounts=(sys.argv[2],))
    async with LocalWorker(settings) as worker:
        try:
            await worker.start(JobSpec(("true",), user=sys.argv[2]), owner="alice")
        except JobError as error:
            print(error.reason, error)
        job = await worker.start(JobSpec(("true",)), owner="alice")
        print((await worker.wait(job)).user)
        await worker.retire()

asyncio.run(main())
"""


def test_without_root_a_user_is_refused_with_the_remedy(settings: Settings) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        # Another user may reach neither this checkout nor its Python; the worker needs no package.
        shutil.copytree(ROOT / "src/jobruntime", f"{place}/lib/jobruntime")
        Path(place).chmod(0o755)
        os.mkdir(f"{place}/own")
        os.chown(f"{place}/own", ORDINARY_UID, ORDINARY_UID)
        done = subprocess.run(
            [any_users_python(), "-c", WITHOUT_ROOT, f"{place}/own/state", NAME],
            env={"PYTHONPATH": f"{place}/lib", "PATH": os.defpath},
            user=ORDINARY_UID,
            group=ORDINARY_UID,
            extra_groups=[],
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    refusal, user = done.stdout.decode().splitlines()
    assert refusal.startswith("USER_UNAVAILABLE cannot start the job as user")
    assert "have the operator run jobd as root" in refusal
    assert user == str(ORDINARY_UID)


# ---------------------------------------------------------------- what the spawner takes of anybody


def sealed(data: bytes, *, seals: bool = True) -> int:
    fd = os.memfd_create("spec", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    if seals:
        every = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, every)
    return fd


def ask(settings: Settings, order: dict[str, object], *, seals: bool = True) -> dict[str, object]:
    """Give the spawner a start as jobd would; return the first word of its answer."""
    job_id = str(uuid.uuid4())
    message = {"op": "start", "id": job_id, "user": "x", "rlimits": [], **order}
    spec = sealed(
        encode_json(encode_spec(JobSpec(("sleep", "0.01"))) | {"io": encode_io_order(NO_IO)}),
        seals=seals,
    )
    with tempfile.TemporaryDirectory(dir=settings.work_dir) as place:
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        spawner = sockets.connect(str(settings.runtime_dir), "spawner.sock")
        with ours, spawner:
            assert sockets.receive_message(spawner) is not None
            with theirs:
                sockets.send_message(spawner, message, (theirs.fileno(), directory, spec))
            ours.settimeout(DEADLINE_S)
            answer: dict[str, object] = {}
            while received := sockets.receive_message(ours):
                answer = answer or received[0]
            left = sorted(os.listdir(directory))
        os.close(directory)
        os.close(spec)
        assert ("failed" in answer) is (not left), (answer, left)
        return answer


ASKED: dict[str, object] = {"uid": UID_FIRST + 99, "gid": UID_FIRST + 99}


def test_the_spawner_takes_no_order_but_for_its_own_users_whoever_gives_it(
    settings: Settings,
) -> None:
    assert ACCOUNT is not None
    forged: list[dict[str, object]] = [
        {"uid": 0, "gid": 0},
        {"uid": None, "gid": None},
        {"uid": UID_FIRST + 100, "gid": UID_FIRST + 100},
        {"uid": UID_FIRST - 1, "gid": UID_FIRST - 1},
        {"uid": UID_FIRST, "gid": 0},
        {"uid": UID_FIRST, "gid": UID_FIRST + 1},
        {"uid": UID_FIRST},
        {"gid": UID_FIRST},
        {"uid": str(UID_FIRST), "gid": str(UID_FIRST)},
        {"uid": float(UID_FIRST), "gid": float(UID_FIRST)},
        {"uid": [UID_FIRST], "gid": [UID_FIRST]},
        {"uid": -1, "gid": -1},
        {"uid": True, "gid": True},
        {"uid": ACCOUNT.pw_uid, "gid": 0},
        {"uid": float(ACCOUNT.pw_uid), "gid": float(ACCOUNT.pw_gid)},
    ]
    malformed: list[dict[str, object]] = [
        {**ASKED, "id": "../../../etc"},
        {**ASKED, "id": f"{uuid.uuid4()}/.."},
        {**ASKED, "id": None},
        {**ASKED, "user": "a\0b"},
        {**ASKED, "user": 7},
        {**ASKED, "rlimits": [["nofile", "many", 1]]},
        {**ASKED, "rlimits": [["no-such", 1, 1]]},
        {**ASKED, "rlimits": [["nofile", 2, 1]]},
        {**ASKED, "rlimits": {"nofile": 1}},
    ]

    async def asked(**order: object) -> dict[str, object]:
        return await asyncio.to_thread(ask, settings, order)

    async def main() -> None:
        async with LocalWorker(settings):
            # The same words with a user of the range, and with an account, start a job.
            assert "started" in await asked(**ASKED)
            assert "started" in await asked(uid=ACCOUNT.pw_uid, gid=ACCOUNT.pw_gid)
            for order in forged:
                assert _step(await asked(**order)) == ("user", 1), order
            for order in malformed:
                assert _step(await asked(**order)) == ("order", 22), order
            answer = await asyncio.to_thread(lambda: ask(settings, ASKED, seals=False))
            assert _step(answer) == ("order", 22)

    asyncio.run(main())


def _step(answer: dict[str, object]) -> tuple[object, object]:
    failed = answer["failed"]
    assert isinstance(failed, dict)
    return failed["step"], failed["errno"]


# ---------------------------------------------------------------- resource limits


def test_a_job_has_the_limits_of_the_settings_and_first_those_of_its_grant(
    settings: Settings,
) -> None:
    told = "ulimit -Sc; ulimit -Hc; ulimit -Sn; ulimit -Hn; ulimit -Hs"
    wide = replace(settings, rlimits={"core": (0, 0), "nofile": (64, 128), "stack": (-1, -1)})

    async def main() -> None:
        async with LocalWorker(wide) as worker:
            output, _ = await run(worker, told)
            assert output.split() == ["0", "0", "64", "128", "unlimited"]
            terms = Terms(rlimits={"nofile": (32, 32)})
            output, _ = await run(worker, told, terms=terms)
            assert output.split() == ["0", "0", "32", "32", "unlimited"]
            # None of them is raised again by the job.
            output, status = await run(worker, "ulimit -n 129")
            assert status.outcome == Exited(2), output

    asyncio.run(main())


def test_a_job_leaves_no_core_file_unless_the_operator_wants_it(settings: Settings) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern.startswith(("|", "/")):
        pytest.skip("this host's core files go elsewhere")
    script = "sh -c 'kill -QUIT $$'; ls"
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    wanted = replace(settings, rlimits={"core": (hard, hard)})

    async def main(settings: Settings) -> str:
        async with LocalWorker(settings) as worker:
            return (await run(worker, script))[0]

    if hard:
        assert "core" in asyncio.run(main(wanted)).replace("core dumped", "")
    assert "core" not in asyncio.run(main(settings)).replace("core dumped", "")


def test_the_processes_of_one_owner_are_counted_and_no_other_owners(settings: Settings) -> None:
    few = replace(settings, rlimits={"nproc": (5, 5)})
    script = "for n in 1 2 3 4 5 6 7 8; do sleep 600 & done; sleep 600"

    async def main() -> None:
        async with LocalWorker(few) as worker:
            output, status = await run(worker, script)
            assert status.outcome == Exited(2)  # dash: cannot fork
            assert "fork" in output
            # Another owner: of the first one's processes some may not be reaped yet, and count.
            sleep = JobSpec(("sleep", "600"))
            jobs: list[str] = []
            error = None
            while error is None and len(jobs) < 10:
                try:
                    jobs.append(await worker.start(sleep, owner="carol"))
                except JobError as caught:
                    error = caught
            assert error is not None
            # The kernel counts before a process becomes this user's: one more gets through.
            assert 5 <= len(jobs) <= 6
            assert error.reason is Reason.RESOURCE_EXHAUSTED
            assert "as many processes as he may have" in error.message
            assert (await run(worker, "true", owner="bob"))[1].outcome == Exited(0)
            for job in jobs:
                await worker.stop(job, by="carol", grace_ms=0)

    asyncio.run(main())


def test_a_jobs_own_directory_is_its_home_and_its_tmpdir_and_goes_with_its_record(
    settings: Settings,
) -> None:
    async def main() -> None:
        async with LocalWorker(settings) as worker:
            output, status = await run(worker, "pwd; echo $HOME $TMPDIR; stat -c '%a %u' .; mktemp")
            home = f"{settings.work_dir}/{status.job_id}"
            pwd_line, both, mode, made = output.splitlines()
            assert (pwd_line, both) == (home, f"{home} {home}")
            assert mode == f"700 {status.user}"
            assert os.path.dirname(made) == home
            empty = await worker.start(JobSpec(("true",)), owner="alice")
            await worker.wait(empty)
            for job in (status.job_id, empty):
                assert job in os.listdir(str(settings.work_dir))
                await worker.remove(job)
                assert job not in os.listdir(str(settings.work_dir))

    asyncio.run(main())


def test_a_start_that_fails_leaves_no_directory(settings: Settings) -> None:
    async def main() -> None:
        async with LocalWorker(settings) as worker:
            for argv in (("/no/such/program",), ("/etc/passwd",)):
                with pytest.raises(JobError):
                    await worker.start(JobSpec(argv), owner="alice")
            eventually(lambda: not os.listdir(str(settings.work_dir)))

    asyncio.run(main())
