"""`jobd`: its commands, wired. What they need is loaded when they run."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import Final

from jobruntime import __version__

from .errors_out import run_reporting

_EPILOG: Final = """\
a first server:
  jobd init --dir ~/jobs                      certificates and configuration
  jobd serve --config ~/jobs/jobd.toml        serve, in the foreground
  jobd cert issue alice --role user --dir ~/jobs
  jobd cert revoke alice --dir ~/jobs         lock her out; also: cert list, renew, rollover
  jobd stop --config ~/jobs/jobd.toml         end the server; jobs go on
  jobd stop --config ~/jobs/jobd.toml --jobs  end the jobs, too
  jobd policy check ~/jobs/policy.toml        who may do what
  jobd doctor --config ~/jobs/jobd.toml       see what this host lacks, and try every limit
  jobd audit verify --config ~/jobs/jobd.toml see whether the record of calls was touched

exit codes: 0 done, 1 refused or failed (one sentence on stderr), 2 wrong usage
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command of `jobd` and return its exit code."""
    args = _parser().parse_args(argv)
    command = import_module(f"jobruntime.server.{args.module}")
    return run_reporting(lambda: int(command.run(args)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobd",
        description="Run Linux processes for authenticated callers: the server and its tools.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jobd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_init(commands)
    serve = commands.add_parser(
        "serve",
        help="serve one instance, in the foreground",
        description="Serve one instance until SIGTERM or Ctrl-C. Its jobs go on without the "
        "server, and a server started again finds them. SIGHUP has it read its policy anew.",
    )
    serve.add_argument("--config", required=True, metavar="FILE", help="made by jobd init")
    serve.set_defaults(module="monitor" if os.geteuid() == 0 else "serve")
    stop = commands.add_parser(
        "stop",
        help="end a server",
        description="End the server of an instance and wait until it is gone. Where none runs, "
        "that is no error; --jobs then ends the jobs all the same.",
    )
    stop.add_argument("--config", required=True, metavar="FILE", help="the instance's jobd.toml")
    stop.add_argument(
        "--jobs", action="store_true", help="first end every job, each with its signal and grace"
    )
    stop.set_defaults(module="stop")
    _add_doctor(commands)
    _add_policy(commands)
    _add_audit(commands)
    return parser


def _add_policy(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from . import policy_check

    policy = commands.add_parser("policy", help="check who may do what")
    policy_check.add_arguments(policy)
    policy.set_defaults(module="policy_check")


def _add_audit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from . import audit_flags

    audit = commands.add_parser("audit", help="verify the record of calls, or print its head")
    audit_flags.add_arguments(audit)
    audit.set_defaults(module="audit_command")


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from .doctor import flags

    doctor = commands.add_parser(
        "doctor",
        help="see what this host lacks, and try every limit",
        description=flags.DESCRIPTION,
        epilog=flags.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_arguments(doctor)
    doctor.set_defaults(module="doctor.command")


def _add_init(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    # Their flags are cheap to load; what they run is not, and is loaded by them.
    from . import cert, init_instance

    init = commands.add_parser(
        "init",
        help="make certificates and a configuration",
        description="Make an instance: a CA, the certificates of the server and of one "
        "administrator, and jobd.toml.",
        epilog="examples:\n  jobd init --dir ~/jobs\n  jobd init --dir /srv/jobs "
        "--listen 0.0.0.0:7443 --san jobs.example.org",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    init_instance.add_arguments(init)
    init.set_defaults(module="init_instance")
    issue = commands.add_parser("cert", help="make, list, renew and revoke certificates")
    cert.add_arguments(issue)
    issue.set_defaults(module="cert")


if __name__ == "__main__":
    sys.exit(main())
