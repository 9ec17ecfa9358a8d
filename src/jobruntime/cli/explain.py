"""`jobc start --explain`: what a start would run, and by which rules; nothing is started."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .failure import Exit, Failure, printable
from .output import write_line

if TYPE_CHECKING:
    from jobruntime.rpc.gen import service_pb2 as pb

    from .settings import Settings

DEADLINE_SECONDS = 30


def add_explain_flags(parser: ArgumentParser) -> list[Action]:
    """Add the flags in a group of their own."""
    add = parser.add_argument_group("instead of a start").add_argument
    return [
        add(
            "--explain",
            action="store_true",
            help="start nothing; print what would run, on which terms and by which rules, or how "
            "it would be refused (then the exit code is 1)",
        ),
        add(
            "-o",
            "--output",
            choices=("text", "json"),
            metavar="FORM",
            help="with --explain: text or json (default: text)",
        ),
    ]


def check_explain(args: Namespace) -> None:
    """Refuse a form of output where only an id is printed; raises Failure."""
    if args.output is not None and not args.explain:
        raise Failure(
            Exit.USAGE,
            "cannot print an id in another form: --output goes with --explain",
            "leave it out",
        )


def explain(request: pb.StartRequest, form: str, settings: Settings) -> Exit:
    """Print the explanation; raises Failure."""
    from jobruntime.rpc.gen import service_pb2 as pb

    from .connection import call

    question = pb.ExplainRequest(start=request)
    response = call(
        settings,
        lambda stub: stub.Explain(
            question, timeout=DEADLINE_SECONDS + settings.connect_timeout_ms / 1000
        ),
        if_lost="try again",
    )
    write_line(_json(response) if form == "json" else "\n".join(_lines(response)))
    return Exit.OK if response.allowed else Exit.REFUSED


def _lines(response: pb.ExplainResponse) -> Iterator[str]:
    facts = _refusal_facts(response) if not response.allowed else _facts(response)
    for name, value in facts:
        yield f"{name:<18} {printable(value)}"


def _refusal_facts(response: pb.ExplainResponse) -> Iterator[tuple[str, str]]:
    refusal = response.refusal
    yield "would start", "no"
    yield "why", refusal.message
    yield "remedy", refusal.remedy or "none"
    yield "reason", refusal.reason


def _facts(response: pb.ExplainResponse) -> Iterator[tuple[str, str]]:
    from jobruntime.model.state import signal_name
    from jobruntime.rpc.convert_limits import limits_of
    from jobruntime.rpc.convert_logs import log_policy_of

    from .limits_told import format_limits
    from .share_flags import format_shares

    log = log_policy_of(response.log)
    yield "would start", "yes"
    yield "program", response.program or "not known"
    yield "runs as", _runs_as(response)
    yield "limits", format_limits(limits_of(response.limits))
    yield (
        "log",
        f"{'all' if log.max_bytes is None else f'{log.max_bytes} bytes'}, then {log.on_full}",
    )
    yield "isolation", response.isolation or "none"
    yield "resource limits", _resource_limits(response) or "none"
    yield "quota", _quota(response.quota) or "none"
    yield "shared with", format_shares(response.shares) or "nobody"
    yield "working directory", response.working_directory or "a new one of the job's own"
    yield "stop", f"{signal_name(response.stop_signal)}, killed after {response.grace_ms} ms"
    yield "timeout", f"{response.timeout_ms} ms" if response.HasField("timeout_ms") else "none"
    yield "role", response.role
    for rule in response.rules:
        yield "rule", rule
    for note in response.notes:
        yield "note", note


def _runs_as(response: pb.ExplainResponse) -> str:
    if response.account:
        return f"account {response.account} (uid {response.uid})"
    return f"uid {response.uid}" if response.HasField("uid") else "the server's user, or a new uid"


def _resource_limits(response: pb.ExplainResponse) -> str:
    words = []
    for limit in response.resource_limits:
        soft, hard = (
            str(getattr(limit, name)) if limit.HasField(name) else "max"
            for name in ("soft", "hard")
        )
        words.append(f"{limit.name} {soft}" + ("" if soft == hard else f" (at most {hard})"))
    return ", ".join(words)


def _quota(quota: pb.Quota) -> str:
    words = []
    for field, value in quota.ListFields():
        words.append(
            f"{field.name} {value:g}" if isinstance(value, float) else f"{field.name} {value}"
        )
    return ", ".join(words)


def _json(response: pb.ExplainResponse) -> str:
    import json

    from jobruntime.rpc.convert_limits import limits_of
    from jobruntime.rpc.convert_logs import log_policy_of
    from jobruntime.rpc.gen import service_pb2 as pb

    from .limits_told import limits_json
    from .share_flags import shares_json

    told: dict[str, object] = {"allowed": response.allowed, "refusal": None}
    if not response.allowed:
        refusal = response.refusal
        told["refusal"] = {
            "reason": refusal.reason,
            "message": refusal.message,
            "remedy": refusal.remedy,
        }
        return json.dumps(told)
    log = log_policy_of(response.log)
    return json.dumps(
        told
        | {
            "role": response.role,
            "rules": list(response.rules),
            "program": response.program or None,
            "account": response.account or None,
            "uid": response.uid if response.HasField("uid") else None,
            "limits": limits_json(limits_of(response.limits)),
            "log": {"max_bytes": log.max_bytes, "on_full": log.on_full},
            "isolation": response.isolation or None,
            "resource_limits": {
                limit.name: [
                    limit.soft if limit.HasField("soft") else None,
                    limit.hard if limit.HasField("hard") else None,
                ]
                for limit in response.resource_limits
            },
            "quota": {
                field.name: getattr(response.quota, field.name)
                if response.quota.HasField(field.name)
                else None
                for field in pb.Quota.DESCRIPTOR.fields
            },
            "shares": shares_json(response.shares),
            "working_directory": response.working_directory or None,
            "stop_signal": response.stop_signal,
            "grace_ms": response.grace_ms,
            "timeout_ms": response.timeout_ms if response.HasField("timeout_ms") else None,
            "notes": list(response.notes),
        }
    )
