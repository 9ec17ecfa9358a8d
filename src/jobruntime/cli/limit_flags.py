"""The flags of `start` and `update` that name limits, and what they ask for."""

from __future__ import annotations

from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from .failure import Exit, Failure
from .values import exact

if TYPE_CHECKING:
    from jobruntime.model.limits import IoLimit, Limits

Value = TypeVar("Value")

DESCRIPTION: Final = """\
For all processes of the job together, held by the kernel (cgroup v2) from its first instruction
on; what the server's host cannot hold is refused. A SIZE is in bytes or has a unit: 64K, 256M,
1.5G, 1T (powers of 1024). {not_given} `max` in the place of a
value lifts a limit, but for weights. `jobc stats` tells which of them a job has come to feel.
"""


def add_limit_flags(parser: ArgumentParser, not_given: str) -> list[Action]:
    """Add the flags in a group of their own, and have them checked together once they are read.

    `not_given` is the sentence on a limit that is not given.
    """
    parser.set_defaults(check=limits_of)
    description = DESCRIPTION.format(not_given=not_given)
    add = parser.add_argument_group("limits", description).add_argument
    return [
        add(
            "--cpus",
            type=_number("cpus"),
            metavar="N",
            help="CPU time in CPUs: 2, 1.5, 0.2; when it is used up, the job waits (throttled)",
        ),
        add(
            "--cpu-weight",
            type=_number("cpu_weight"),
            metavar="N",
            help="its share where CPUs are short, 1 to 10000; a job without one has 100",
        ),
        add(
            "--cpuset",
            type=_cpuset,
            metavar="LIST",
            help="the CPUs on which it may run: 0-3,6",
        ),
        add(
            "--memory",
            type=_number("memory"),
            metavar="SIZE",
            help="memory, page cache included; a job that needs more is killed. Alone it also "
            "forbids swap",
        ),
        add(
            "--memory-high",
            type=_number("memory_high"),
            metavar="SIZE",
            help="above this, and below --memory, the job is slowed instead of killed",
        ),
        add(
            "--memory-swap",
            type=_number("memory_swap"),
            metavar="SIZE",
            help="memory and swap together, as docker has it: --memory 1G --memory-swap 3G swaps "
            "2G at most; `max`: all that is there",
        ),
        add(
            "--pids",
            type=_number("pids"),
            metavar="N",
            help="processes and threads at once; a fork beyond them fails",
        ),
        *_add_io_flags(add),
        add(
            "--oom-group",
            nargs="?",
            const="true",
            type=_truth,
            metavar="true|false",
            help="out of memory ends the whole job, which is the default; --oom-group=false: one "
            "process of it, and the job goes on if that is not its first",
        ),
    ]


def limits_of(args: Namespace) -> Limits:
    """Return the limits that the flags name; raises Failure where two contradict each other."""
    from jobruntime.model.errors import JobError
    from jobruntime.model.limit_texts import NUMBERS, RATES
    from jobruntime.model.limits import Limits, check_limits, check_together, join_rates

    numbers = {field: getattr(args, name) for name, (field, _) in NUMBERS.items()}
    rates: list[IoLimit] = [rate for name in RATES for rate in getattr(args, name)]
    limits = Limits(**numbers, cpuset=args.cpuset, io=join_rates(rates), oom_group=args.oom_group)
    try:
        check_limits(limits)
        if limits.memory_bytes is not None:  # else the server's default may be what makes them fit
            check_together(limits)
    except JobError as error:
        raise Failure(Exit.USAGE, error.message, error.remedy) from error
    return limits


def _add_io_flags(add: Callable[..., Action]) -> list[Action]:
    actions = [
        add(
            "--io-weight",
            type=_number("io_weight"),
            metavar="N",
            help="its share where a disk is busy, 1 to 10000; a job without one has 100",
        )
    ]
    for name, help_text in {
        "io_read_bps": "bytes a second (a SIZE) that it may read from a disk; PATH is the disk on "
        "the server or any file on it: /dev/sda:10M, /srv:10M; may be given often",
        "io_write_bps": "the same for what it writes",
        "io_read_iops": "reads a second: /srv:500",
        "io_write_iops": "writes a second",
    }.items():
        actions.append(
            add(
                f"--{name.replace('_', '-')}",
                action="append",
                default=[],
                type=_rate(name),
                metavar="PATH:RATE",
                help=help_text,
            )
        )
    return actions


def _number(name: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        from jobruntime.model.limit_texts import parse_number

        return _told(lambda: parse_number(name, exact(text)))

    return parse


def _rate(name: str) -> Callable[[str], IoLimit]:
    def parse(text: str) -> IoLimit:
        from jobruntime.model.limit_texts import parse_rate

        rate = _told(lambda: parse_rate(name, exact(text)))
        try:
            rate.path.encode()
        except UnicodeEncodeError as error:
            raise ArgumentTypeError(
                f"cannot send the path {rate.path!r}: it is not UTF-8; give another one"
            ) from error
        return rate

    return parse


def _cpuset(text: str) -> str:
    from jobruntime.model.limit_texts import parse_cpus_allowed

    return _told(lambda: parse_cpus_allowed(exact(text)))


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ArgumentTypeError(
            f"cannot read {text!r}; write --oom-group=true or --oom-group=false"
        )
    return text == "true"


def _told(parse: Callable[[], Value]) -> Value:
    """Return what `parse` does, its error in the form that argparse takes."""
    from jobruntime.model.errors import JobError

    try:
        return parse()
    except JobError as error:
        raise ArgumentTypeError(str(error)) from error
