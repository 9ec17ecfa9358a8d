"""As root: what one owner's job can do to another's, and to the server. Nothing."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobruntime.model.frames import segment_name
from tests.conftest import MakeInstance
from tests.support import Client, Instance, environment_of, eventually, processes_of, status_fields


@pytest.fixture(scope="module", autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        # Where all is meant to be tested, a test that cannot run has failed.
        assert not os.environ.get("CI"), "these tests need root"
        pytest.skip("only root can give jobs users of their own")


def run_in_job(client: Client, *argv: str) -> tuple[int, str]:
    """Run a command as a job of the client's; return its exit code and all its output."""
    job = client.start("--", *argv)
    with client.api() as api:
        log = api.logs(job)
    assert log.end is not None
    outcome = log.end.status.outcome
    assert outcome.WhichOneof("kind") == "exit_code", outcome
    return outcome.exit_code, (log.stdout + log.stderr).decode()


def uid_of(client: Client) -> int:
    code, output = run_in_job(client, "id", "-u")
    assert code == 0, output
    return int(output)


def test_each_owner_has_a_uid_of_his_own(shared: Instance, alice: Client, bob: Client) -> None:
    uids = {uid_of(client) for client in (alice, bob, shared.admin)}

    first, count = shared.config.uid_first, shared.config.uid_count
    assert len(uids) == 3
    assert all(uid in range(first, first + count) for uid in uids)
    assert 0 not in uids


def test_a_jobs_groups_are_its_owners_alone(alice: Client) -> None:
    uid = uid_of(alice)

    code, output = run_in_job(
        alice, "grep", "-E", "^(Uid|Gid|Groups|NoNewPrivs|Cap...):", "/proc/self/status"
    )

    assert code == 0
    fields = {
        name: value.split() for name, value in (row.split(":") for row in output.splitlines())
    }
    assert fields["Uid"] == fields["Gid"] == [str(uid)] * 4
    assert fields["Groups"] == []
    assert fields["NoNewPrivs"] == ["1"]
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(fields[name][0], 16) == 0


def test_a_restarted_server_remembers_the_uids(make_instance: MakeInstance) -> None:
    instance = make_instance()
    names = ["zoe", "anna", "max"]
    before = [uid_of(instance.issue(name, "user")) for name in names]

    instance.restart()

    newcomer = uid_of(instance.issue("ben", "user"))
    after = [uid_of(instance.issue(name, "user")) for name in reversed(names)]
    assert after == before[::-1]
    assert newcomer not in before


# What alice must not be able to do to bob. The places are filled in for the job of each run.
READ = {
    "the log": "cat {log}",
    "the job's record": "cat {record}/spec.json",
    "the record's directory": "ls {record}",
    "the working directory": "ls {home}",
    "a file in the working directory": "cat {home}/secret",
    "the environment": "grep -z SECRET /proc/{pid}/environ",
    "the open files": "ls -L /proc/{pid}/fd/1",
    "the working directory through /proc": "ls /proc/{pid}/cwd/",
    "the root through /proc": "ls /proc/{pid}/root/",
    "the memory map": "cat /proc/{pid}/maps",
    "the state directory": "ls {state}",
    "the directory of all jobs": "ls {state}/jobs",
    "the owners' table": "cat {state}/owners.json",
    "the catalogue": "head -c 16 {state}/catalogue.sqlite",
    "the spawner's log": "cat {state}/spawner.log",
    "the server's key": "cat {pki}/server.key",
    "the CA's key": "cat {pki}/ca.key",
    "a client's key": "cat {pki}/clients/admin.key",
    "the server's environment": "cat /proc/{jobd}/environ",
    "the keeper's environment": "cat /proc/{keeper}/environ",
    "the keeper's log file": "ls -L /proc/{keeper}/fd/",
}
ACT = {
    "signal the job": "kill -CONT {pid}",
    "signal the keeper": "kill -CONT {keeper}",
    "signal the spawner": "kill -CONT {spawner}",
    "signal the server": "kill -CONT {jobd}",
    "write the working directory": "touch {home}/planted",
    "write the log": "printf '' >>{log}",
    "write the state directory": "touch {state}/planted",
    "make a job's directory": "mkdir {home}/../planted",
    "lock the instance": "exec 9>>{state}/lock",
    "connect to the spawner": "{connect} {runtime}/spawner.sock",
    "connect to the keeper": "{connect} {runtime}/keepers/{job}",
    "list the sockets": "ls {runtime}",
    "freeze the job": "echo 0 >{cgroup}/jobs/{job}/cgroup.freeze",
    "kill the job by its cgroup": "exec 9>{cgroup}/jobs/{job}/cgroup.kill",
    "join the job's cgroup": "echo 0 >{cgroup}/jobs/{job}/cgroup.procs",
    "join the keepers' cgroup": "echo 0 >{cgroup}/supervisor/cgroup.procs",
    "leave for the root cgroup": "echo 0 >{cgroup}/../cgroup.procs",
    "make a cgroup": "mkdir {cgroup}/jobs/planted",
}
UNDO = """
rm -f {home}/planted {state}/planted
for directory in {home}/../planted {cgroup}/jobs/planted; do
    [ ! -d $directory ] || rmdir $directory
done
"""
OWN_CGROUP = {
    "thaw itself": "echo 0 >{cgroup}/jobs/$JOB_ID/cgroup.freeze",
    "kill itself by its cgroup": "exec 9>{cgroup}/jobs/$JOB_ID/cgroup.kill",
    "make a cgroup below its own": "mkdir {cgroup}/jobs/$JOB_ID/planted",
}
# Perl, because every job's user can run it; this Python may be out of his reach.
CONNECT = (
    "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_SEQPACKET, 0) or die; "
    'connect(S, pack_sockaddr_un($ARGV[0])) or die "$!\\n"\''
)


@dataclass(frozen=True)
class Target:
    """A running job of bob's, and all the places that have to do with it."""

    places: dict[str, object]

    def command(self, template: str) -> str:
        return template.format_map(self.places)


@pytest.fixture(scope="module")
def shared() -> Iterator[Instance]:
    """An instance in a directory that all can pass, so that the way there protects nothing."""
    with tempfile.TemporaryDirectory(prefix="jobd-test-") as directory:
        Path(directory).chmod(0o755)
        with Instance(Path(directory, "instance")) as instance:
            yield instance


@pytest.fixture(scope="module")
def alice(shared: Instance) -> Client:
    return shared.issue("alice", "user")


@pytest.fixture(scope="module")
def bob(shared: Instance) -> Client:
    return shared.issue("bob", "user")


@pytest.fixture(scope="module")
def target(shared: Instance, bob: Client) -> Iterator[Target]:
    """A job of bob's with a secret in its environment and in a file that is open to all."""
    script = "echo mine >secret; chmod 666 secret; echo ready; exec sleep 600"
    job = bob.start("-e", "SECRET=bobs", "--", "sh", "-c", script)
    [pid] = eventually(lambda: processes_of(job))
    home = shared.work_dir / job
    eventually(lambda: (home / "secret").exists() and environment_of(pid).get("SECRET"))
    yield Target(
        {
            "job": job,
            "pid": pid,
            "home": home,
            "record": shared.jobs_dir / job,
            "log": shared.jobs_dir / job / segment_name(0),
            "state": shared.config.state_dir,
            "pki": shared.directory / "pki",
            "runtime": shared.runtime_dir,
            "cgroup": shared.cgroup_root,
            "jobd": shared.pid,
            "keeper": shared.keeper_of(job),
            "spawner": shared.spawner_pid(),
            "connect": CONNECT,
        }
    )
    bob.stop(job, "--grace", "0s")


def assert_only_root_can(client: Client, command: str, undo: str = ":") -> None:
    """Prove that the command works where nothing protects, and that it fails in a job."""
    proof = subprocess.run(["sh", "-c", command], capture_output=True, timeout=30, check=False)
    subprocess.run(["sh", "-c", undo], timeout=30, check=True)
    assert (proof.returncode, proof.stderr) == (0, b""), (
        "it does not work without protection either"
    )

    code, output = run_in_job(client, "sh", "-c", command)

    assert code != 0, output
    denied = ("Permission denied", "Operation not permitted", "PermissionError")
    assert any(word in output for word in denied), output


@pytest.mark.parametrize("what", READ)
def test_a_job_cannot_read_what_is_another_owners_or_the_servers(
    target: Target, alice: Client, what: str
) -> None:
    assert_only_root_can(alice, target.command(READ[what]))


@pytest.mark.parametrize("what", ACT)
def test_a_job_cannot_touch_what_is_another_owners_or_the_servers(
    target: Target, alice: Client, what: str
) -> None:
    if "{cgroup}" in ACT[what] and target.places["cgroup"] is None:
        pytest.skip("no cgroup v2 here that could be written")
    assert_only_root_can(alice, target.command(ACT[what]), target.command(UNDO))


@pytest.mark.parametrize("what", OWN_CGROUP)
def test_a_job_cannot_write_its_own_cgroup(
    shared: Instance, target: Target, alice: Client, what: str
) -> None:
    if shared.cgroup_root is None:
        pytest.skip("no cgroup v2 here that could be written")
    command = target.command(OWN_CGROUP[what])
    as_root = f"JOB_ID={target.places['job']}; {command}"
    undo = target.command(
        "[ ! -d {cgroup}/jobs/{job}/planted ] || rmdir {cgroup}/jobs/{job}/planted"
    )
    done = subprocess.run(["sh", "-c", f"{as_root} && {undo}"], timeout=30, check=False)
    assert done.returncode == 0, "it does not work without protection either"

    code, output = run_in_job(alice, "sh", "-c", command)

    assert code != 0
    assert "Permission denied" in output


def test_a_job_of_the_same_owner_is_within_reach(target: Target, bob: Client) -> None:
    # Or the tests above would prove no more than that nothing works.
    for template in ("cat {home}/secret", "kill -CONT {pid}", "grep -z SECRET /proc/{pid}/environ"):
        code, output = run_in_job(bob, "sh", "-c", target.command(template))
        assert code == 0, output
    assert run_in_job(bob, "sh", "-c", f"{CONNECT} /nowhere") == (2, "No such file or directory\n")


def test_an_admins_job_is_no_more_than_another_users(shared: Instance, target: Target) -> None:
    assert_only_root_can(shared.admin, target.command(READ["the server's key"]))
    assert_only_root_can(shared.admin, target.command(READ["the log"]))


def test_the_table_of_uids_is_what_the_jobs_run_as(shared: Instance, target: Target) -> None:
    table = json.loads(Path(shared.config.state_dir, "owners.json").read_text())

    pid = target.places["pid"]
    assert isinstance(pid, int)
    assert status_fields(pid)["Uid"].split() == [str(table["bob"])] * 4
