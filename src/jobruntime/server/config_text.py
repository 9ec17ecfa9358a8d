"""The configuration that `jobd init` writes: what has to be said, and the rest as comments."""

from __future__ import annotations

from pathlib import Path

from .config import DEFAULT_UID_COUNT, Address, toml_string, uid_first_of


def config_text(listen: Address, directory: Path, work_dir: Path) -> str:
    """Return the text of a new instance's jobd.toml."""
    return f"""\
# One instance of jobd. Paths are relative to this file's directory.

# Where clients connect. Another host name or address needs a server certificate that names it.
listen = {toml_string(str(listen))}

# Jobs, their logs and the catalogue. The server makes it, for itself alone.
state_dir = "state"

# Above the jobs' own directories. As root, every directory on the way must be passable by others.
work_dir = {toml_string(str(work_dir))}

# Who may do what, and within which bounds. Without this key: the built-in table (docs/policy.md).
policy = "policy.toml"
# As root: the account as which the server itself runs. Without it: a number of this instance's
# own that needs no account. Change it only while no job runs, and give state_dir and the key to it.
# user = "jobd"

[tls]
ca = "pki/ca.crt"
cert = "pki/server.crt"
key = "pki/server.key"
# What `jobd cert revoke` writes. All four files are read anew when they change, without a restart.
crl = "pki/crl.pem"
# How long what `jobc renew` gets may be valid; never longer than the certificate before it.
# renew_max = "366d"

[jobs]
# How long a job may take to end after its stop signal, unless it says so itself.
default_grace = "10s"
# As root, each owner's jobs run under one uid of this range (and the gid of the same number), never
# given to another owner. systemd, useradd and containers leave the range alone, and it was derived
# from the state directory, so that two instances on a host do not share one. Do not change it
# once there are jobs: their files belong to these uids.
uid_first = {uid_first_of(directory / "state")}
uid_count = {DEFAULT_UID_COUNT}
# As root, accounts of this host that jobs may run as (--user), where the policy lets them.
# accounts = ["build"]

# Resource limits of every job, as setrlimit(2) has them: one number, or soft and hard.
# [jobs.rlimits]
# core = 0
# nofile = [1024, 65536]
# nproc = 4096

[cgroup]
# "auto" finds a cgroup v2 to work in, "none" goes without, an absolute path is used as it is.
root = "auto"

# Limits of cgroup v2. On a host that cannot hold one of them jobd does not start.
# What a job has that does not say otherwise.
# [limits.default]
# memory = "1G"
# pids = "1000"
# The most that a job may ask for, and what it gets where nothing is said.
# [limits.ceiling]
# cpus = "2"
# memory = "4G"
# All jobs together.
# [limits.all]
# memory = "16G"

# [logs]
# How much of a job's output is kept, unless the job says so itself: all of it, until the disk is
# at its reserve.
# max = "1G"
# What then: "drop-oldest", "stop-recording" or "block" (the job waits).
# full = "drop-oldest"
# The most that a job may ask for.
# ceiling = "10G"
# Free room on the disk of state_dir, a size or a share: below it jobs that ended go, the oldest
# first; at half of it, running jobs record no more. Without it: 5%, and at most 1 GiB.
# reserve = "5%"
# How many logs one user may follow at once.
# followers_per_user = 4096

# [retention]
# Jobs that ended are kept until the disk is at its reserve, or one of these says otherwise.
# age = "30d"
# count = 10000
# size = "100G"
# None goes that ended less than so long ago.
# spare = "1h"

# The record of all calls (docs/audit.md).
# [audit]
# path = "state/audit/audit.jsonl"
# A file of this size, or (if given) of this age, is followed by a new one; so many old ones stay.
# max = "64M"
# age = "1d"
# keep = 30
# What of a job's command is written: "full", "program" (and how many arguments), or "none".
# argv = "program"
# How long a line may wait for the disk. "0s": each answer waits for it.
# sync = "1s"
"""
