"""`jobc`: finds the verb, reads its flags, runs it and exits; loads only what the call needs."""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, cast

from .failure import Exit, Failure, tell
from .output import STDOUT_FD, keep_standard_fds, write_all, write_line
from .values import positive_duration_ms
from .words import gather_options, join_implied, split_options

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from .settings import Settings

VERBS: Final = {
    "start": "run a command as a new job and print its id",
    "stop": "end a job",
    "status": "tell what a job is doing, or how it ended",
    "logs": "print the output of jobs and follow it",
    "stats": "tell what a job uses of CPU, memory, processes and disks",
    "update": "change the limits of a running job, or whom a job is shared with",
    "pause": "hold a job still",
    "resume": "let a paused job go on",
    "rm": "remove jobs that have ended",
    "prune": "remove all jobs that have ended, or the old ones",
    "whoami": "tell who you are to the server",
    "can-i": "tell whether you may do something",
    "renew": "get the next certificate before yours ends",
}
DESCRIPTION: Final = "Run Linux processes as jobs on a server, within limits, and watch them."
EPILOG: Final = """\
commands:
{verbs}
  jobc COMMAND --help tells more of each.

examples:
  jobc start --memory 1G --cpus 1.5 /srv/import.sh
  jobc logs a62dfccc
  jobc logs -n 20 -o text web db
  jobc stats a62dfccc
  jobc stop a62dfccc --grace 500ms
  jobc prune --older-than 7d

environment:
  JOBC_ADDR, JOBC_CA, JOBC_CERT, JOBC_KEY are the flags of these names, which come before them.
  XDG_CONFIG_HOME (default: ~/.config) has the settings file, jobc/config.toml, read for what
  neither of them gives: the keys addr, ca, cert, key, relative paths from its own directory on.

exit codes:
  0    done
  1    the server refused or failed
  2    the command line is wrong
  125  the server cannot be reached, or jobc itself failed
  126  start: the program cannot be executed (a directory, no permission, a bad format)
  127  start: the program was not found
  130  interrupted by Ctrl-C; no job is touched by it
  141  nobody reads the output any more
"""


class Verb(Protocol):
    """What the module of a verb has."""

    USAGE: str
    DESCRIPTION: str
    EPILOG: str

    @staticmethod
    def add_arguments(parser: ArgumentParser) -> list[Action]:
        """Add the verb's flags and arguments."""

    @staticmethod
    def run(args: Namespace, settings: Settings) -> Exit:
        """Do it."""


class Parser(ArgumentParser):
    """An argument parser whose errors are one sentence with the remedy."""

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Write the help to stdout; argparse's own says nothing of a disk that is full."""
        write_all(STDOUT_FD, self.format_help().encode())

    def format_help(self) -> str:
        """Return the help; argparse shows a value that may be left out as if a space came first."""
        text = super().format_help()
        for value in ("[true|false]", "[WAY]"):
            text = text.replace(f" {value}", f"[={value[1:]}")
        return text

    def error(self, message: str) -> NoReturn:
        """Raise Failure instead of printing the usage and exiting."""
        raise Failure(
            Exit.USAGE, f"cannot read the command line: {message}", f"see {self.prog} --help"
        )


def main() -> NoReturn:
    """Run jobc with the process's arguments, and exit."""
    keep_standard_fds()
    # gRPC would write its own view of a failed handshake to stderr; it reads this when imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    exit_code = run(sys.argv[1:])
    # Taking grpc and the interpreter down in good order costs 20 ms and changes nothing: all
    # output was written, and the server sees the connection close.
    os._exit(exit_code)


def run(words: Sequence[str]) -> int:
    """Run jobc with `words` as its arguments and return its exit code; all output is written."""
    try:
        return _run(words)
    except Failure as failure:
        tell(str(failure))
        return failure.exit_code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except OSError as error:
        tell(f"cannot go on: {(error.strerror or str(error)).lower()}")
        return Exit.OWN_FAILURE
    except Exception as error:  # noqa: BLE001 (the process boundary)
        tell(f"cannot go on: {type(error).__name__}: {error}; this is a defect of jobc's")
        return Exit.OWN_FAILURE


def _run(words: Sequence[str]) -> Exit:
    parser = _parser("jobc", "[FLAGS] COMMAND ...", DESCRIPTION, EPILOG.format(verbs=_verb_list()))
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    common = _add_connection_flags(parser)
    options, rest = split_options(words, _valued(common))
    args = Namespace()
    try:
        parser.parse_args(options, args)
        if args.version:
            return _print_version()
        if not rest:
            parser.error("no command was given")
        name, words_of_verb = rest[0], rest[1:]
        if name not in VERBS:
            parser.error(f"there is no command {name!r}")
        verb = cast(Verb, import_module(f".{name.replace('-', '_')}", __package__))
        _parse_verb(name, verb, words_of_verb, args)
    except SystemExit:  # argparse has printed the help
        return Exit.OK
    from .settings import DEFAULT_CONNECT_TIMEOUT_MS, KEYS, resolve_settings

    given = {key: value for key in KEYS if (value := getattr(args, key, None))}
    timeout_ms = getattr(args, "connect_timeout", DEFAULT_CONNECT_TIMEOUT_MS)
    settings = resolve_settings(given, os.environ, timeout_ms)
    if name != "renew":
        from .validity import warn_of_end

        warn_of_end(settings.cert)
    return verb.run(args, settings)


def _parse_verb(name: str, verb: Verb, words: Sequence[str], args: Namespace) -> None:
    parser = _parser(f"jobc {name}", verb.USAGE, verb.DESCRIPTION, verb.EPILOG)
    actions = verb.add_arguments(parser) + _add_connection_flags(parser)
    if name == "start":
        options, args.command = split_options(words, _valued(actions))
        parser.parse_args(options, args)
        if not args.command:
            parser.error("no command to run was given")
    elif any(action.nargs == "+" for action in actions):
        options, jobs = gather_options(words, _valued(actions))
        parser.parse_args([*options, "--", *jobs], args)
    else:
        parser.parse_args(join_implied(words, _implied(actions)), args)
    if check := getattr(args, "check", None):  # a verb whose flags hang together has set it
        check(args)


def _parser(prog: str, usage: str, description: str, epilog: str) -> Parser:
    return Parser(
        prog=prog,
        usage=f"{prog} {usage}",
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=RawDescriptionHelpFormatter,
    )


def _add_connection_flags(parser: ArgumentParser) -> list[Action]:
    group = parser.add_argument_group("server and certificates (before or behind the verb)")
    add = group.add_argument
    return [
        # SUPPRESS: the second parser must not undo what the first has read.
        add("--addr", default=SUPPRESS, metavar="HOST:PORT", help="the server's address"),
        add("--ca", default=SUPPRESS, metavar="FILE", help="certificate of the server's CA"),
        add("--cert", default=SUPPRESS, metavar="FILE", help="your certificate: who you are"),
        add("--key", default=SUPPRESS, metavar="FILE", help="the key of your certificate"),
        add(
            "--connect-timeout",
            default=SUPPRESS,
            type=positive_duration_ms,
            metavar="DURATION",
            help="how long to try to reach the server (default: 5s)",
        ),
    ]


def _valued(actions: Sequence[Action]) -> dict[str, str]:
    """Return every option that needs a value, with its long form."""
    return {
        option: action.option_strings[-1]
        for action in actions
        if action.nargs not in (0, "?")
        for option in action.option_strings
    }


def _implied(actions: Sequence[Action]) -> dict[str, str]:
    """Return every option whose value may be left out, with the one that it then has."""
    return {
        option: action.const
        for action in actions
        if action.nargs == "?"
        for option in action.option_strings
    }


def _verb_list() -> str:
    return "\n".join(f"  {name:<8}{summary}" for name, summary in VERBS.items())


def _print_version() -> Exit:
    from jobruntime import __version__

    write_line(f"jobc {__version__}")
    return Exit.OK
