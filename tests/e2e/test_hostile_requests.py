"""Requests that no `jobc` would send: each gets a clean refusal, and the server goes on."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub
from jobruntime.rpc.tls import grpc
from tests.calls import SERVICE, Answer, ask, ask_raw
from tests.support import Client, Instance, scaled

KIB64 = 64 * 1024
CODE = grpc.StatusCode
FUZZ = settings(
    max_examples=scaled(60, 3000),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def channel(alice: Client) -> Iterator[grpc.Channel]:
    with alice.channel() as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> JobServiceStub:
    return JobServiceStub(channel)


@pytest.fixture(scope="module")
def finished(alice: Client) -> str:
    """A job that has written two pieces of output."""
    job = alice.start("--", "sh", "-c", "echo one; echo two >&2")
    alice.logs_raw(job)
    return job


def reason_of(answer: Answer) -> str:
    """Return the ErrorInfo's reason, which every refusal by the service has."""
    details = dict(answer.trailers).get("grpc-status-details-bin")
    assert details is not None, answer
    [detail] = status_pb2.Status.FromString(details).details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    return info.reason


def assert_refused(answer: Answer, *codes: grpc.StatusCode) -> None:
    assert answer.code in codes, answer
    assert answer.message.startswith("cannot "), answer
    assert reason_of(answer) != "INTERNAL"


ODD_REFERENCES = [
    "../",
    "../../../etc/passwd",
    "/etc/passwd",
    ".",
    "*",
    "%",
    "_",
    "?",
    "\0",
    "' OR '1'='1",
    '"; DROP TABLE jobs; --',
    "\N{RIGHT-TO-LEFT OVERRIDE}",
    "\N{PILE OF POO}" * 100,
    "-1",
    "g",
    "a" * KIB64,
    "../" * KIB64,
    "\n" * KIB64,
]


@pytest.mark.parametrize("reference", ODD_REFERENCES, ids=range(len(ODD_REFERENCES)))
def test_an_odd_reference_names_no_job(stub: JobServiceStub, finished: str, reference: str) -> None:
    requests = [
        pb.StatusRequest(job=reference),
        pb.StopRequest(job=reference),
        pb.LogsRequest(job=reference, follow=True),
        pb.StatusRequest(job=finished + reference),
    ]
    for request in requests:
        assert_refused(ask(stub, request), CODE.NOT_FOUND, CODE.INVALID_ARGUMENT)


@pytest.mark.parametrize("method", ["Status", "Stop", "Logs"])
def test_an_empty_request_names_no_job(channel: grpc.Channel, method: str) -> None:
    assert_refused(ask_raw(channel, method, b""), CODE.INVALID_ARGUMENT)


HUGE = (1 << 63) - 1
BAD_STARTS: dict[str, dict[str, object]] = {
    "nothing": {"argv": []},
    "an empty program": {"argv": [""]},
    "a NUL": {"argv": ["true", "a\0b"]},
    "a NUL in the program": {"argv": ["true\0"]},
    "both forms of argv": {"argv_bytes": [b"true"]},
    "a name of 64 KiB": {"name": "a" * KIB64},
    "a name that is a path": {"name": "../../etc"},
    "a name with a slash": {"name": "a/b"},
    "a name with a NUL": {"name": "a\0b"},
    "a name that looks like a flag": {"name": "--name"},
    "a request id of 64 KiB": {"request_id": "r" * KIB64},
    "a request id with a line feed": {"request_id": "a\nb"},
    "a relative directory": {"working_directory": "tmp"},
    "a directory with a NUL": {"working_directory": "/tmp\0"},
    "an empty variable": {"env": {"": "x"}},
    "a variable with =": {"env": {"A=B": "x"}},
    "a variable with a NUL": {"env": {"A": "x\0y"}},
    "too many labels": {"labels": {str(n): "x" for n in range(1000)}},
    "a label of 64 KiB": {"labels": {"a": "x" * KIB64}},
    "an empty label": {"labels": {"": "x"}},
    "a negative grace": {"grace_ms": -1},
    "a huge grace": {"grace_ms": HUGE},
    "the most negative grace": {"grace_ms": -HUGE - 1},
    "no timeout's length": {"timeout_ms": 0},
    "a negative timeout": {"timeout_ms": -1},
    "a huge timeout": {"timeout_ms": HUGE},
    "signal 0": {"stop_signal": 0},
    "signal 65": {"stop_signal": 65},
    "signal -1": {"stop_signal": -1},
    "a huge signal": {"stop_signal": (1 << 31) - 1},
    "an argument of 1 MiB": {"argv": ["true", "x" * (1 << 20)]},
    "7 MiB of arguments": {"argv": ["true"] * 1_000_000},
}


@pytest.mark.parametrize("what", BAD_STARTS)
def test_a_start_that_breaks_a_rule_is_refused_and_leaves_nothing(
    shared: Instance, stub: JobServiceStub, what: str
) -> None:
    before = shared.job_ids()
    fields: dict[str, object] = {"argv": ["true"]} | BAD_STARTS[what]

    answer = ask(stub, pb.StartRequest(**fields))  # type: ignore[arg-type]

    assert_refused(answer, CODE.INVALID_ARGUMENT)
    assert len(answer.message) < 4096
    assert shared.job_ids() == before


BAD_STOPS: list[dict[str, int]] = [
    *({"signal": signo} for signo in (0, -1, 65, (1 << 31) - 1, -(1 << 31))),
    *({"grace_ms": grace_ms} for grace_ms in (-1, HUGE, -HUGE - 1)),
]


def test_a_stop_that_breaks_a_rule_is_refused_and_stops_nothing(
    stub: JobServiceStub, alice: Client
) -> None:
    job = alice.start("sleep", "600")

    for fields in BAD_STOPS:
        answer = ask(stub, pb.StopRequest(job=job, **fields))
        assert_refused(answer, CODE.INVALID_ARGUMENT)

    assert alice.status_json(job)["stop_requested"] is None
    alice.stop(job, "--grace", "0s")


@pytest.mark.parametrize("service", [SERVICE, "jobruntime.v2.JobService", "", "a" * 1000])
def test_an_unknown_method_is_unimplemented(channel: grpc.Channel, service: str) -> None:
    for method in ("Restart", "start", "Start/"):
        answer = ask_raw(channel, method, b"", service=service)
        assert answer.code is CODE.UNIMPLEMENTED, answer


@pytest.mark.parametrize("method", ["Start", "Status", "Stop", "Logs"])
def test_a_message_over_8_mib_is_refused(
    stub: JobServiceStub, channel: grpc.Channel, finished: str, method: str
) -> None:
    answer = ask_raw(channel, method, bytes(9 << 20))

    assert answer.code is CODE.RESOURCE_EXHAUSTED, answer
    assert ask(stub, pb.StatusRequest(job=finished)).ok


def test_a_stream_method_called_as_a_plain_one_is_no_harm(
    stub: JobServiceStub, channel: grpc.Channel, finished: str
) -> None:
    request = pb.LogsRequest(job=finished).SerializeToString()
    unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Logs")
    with pytest.raises(grpc.RpcError):
        unary(request, timeout=2)

    assert ask(stub, pb.StatusRequest(job=finished)).ok


CLEAN = {
    CODE.OK,
    CODE.INVALID_ARGUMENT,
    CODE.NOT_FOUND,
    CODE.FAILED_PRECONDITION,
    CODE.ALREADY_EXISTS,
}


@FUZZ
@given(st.sampled_from(["Start", "Stop", "Status", "Logs"]), st.binary(max_size=200))
@example("Status", b"\xff")
@example("Start", b"\x0a\x02\xff\xfe")  # an argument that is not UTF-8 in a string field
@example("Logs", b"\x0a\xff\xff\xff\xff\x0f")
def test_random_bytes_get_a_clean_answer(channel: grpc.Channel, method: str, data: bytes) -> None:
    answer = ask_raw(channel, method, data)

    assert answer.code in CLEAN, (answer, data)


def messages() -> st.SearchStrategy[Message]:
    """Well-formed requests of any content."""
    text = st.text(max_size=40)
    number = st.integers(-(1 << 63), HUGE)
    job = text | st.just(str(uuid.UUID(int=0)))
    return st.one_of(
        st.builds(pb.StatusRequest, job=job),
        st.builds(pb.LogsRequest, job=job, follow=st.booleans(), cursor=text),
        st.builds(pb.StopRequest, job=job, grace_ms=number, signal=st.integers(-99, 99)),
        st.builds(
            pb.StartRequest,
            argv=st.lists(text.map(lambda word: f"/nowhere/{word}"), max_size=4),
            env=st.dictionaries(text, text, max_size=3),
            labels=st.dictionaries(text, text, max_size=3),
            name=text,
            working_directory=text,
            stop_signal=st.integers(-99, 99),
            grace_ms=number,
            timeout_ms=number,
            request_id=text,
        ),
    )


@FUZZ
@given(messages())
def test_any_request_gets_a_clean_answer(stub: JobServiceStub, message: Message) -> None:
    answer = ask(stub, message)

    assert answer.code in CLEAN - {CODE.OK}, (answer, message)
    assert_refused(answer, answer.code)


def cursors() -> st.SearchStrategy[str]:
    number = st.integers(0, 200) | st.integers(0, 1 << 70)
    numbers = st.lists(number, min_size=3, max_size=5)
    return st.text(max_size=200) | numbers.map(lambda ns: ":".join(map(str, [1, *ns])))


@FUZZ
@given(cursor=cursors(), follow=st.booleans())
@example(cursor="1:8:0:0:0", follow=False)
@example(cursor="1:8:99999999999999999999999999:0:0", follow=False)
@example(cursor="1:8:18446744073709551616:0:0", follow=True)
@example(cursor="1:8:0:18446744073709551615:18446744073709551615", follow=True)
@example(cursor="1:" + "9" * 100_000 + ":0:0:0", follow=False)
@example(cursor="1:-8:0:0:0", follow=False)
@example(cursor="1:9223372036854775807:0:0:0", follow=True)
@example(cursor="1:9:0:0:0", follow=True)
@example(cursor="1:\u0668:0:0:0", follow=False)
@example(cursor=":" * 1000, follow=False)
def test_a_cursor_is_one_of_the_logs_or_refused_as_invalid(
    stub: JobServiceStub, finished: str, *, cursor: str, follow: bool
) -> None:
    answer = ask(stub, pb.LogsRequest(job=finished, cursor=cursor, follow=follow))

    if not answer.ok:
        assert_refused(answer, CODE.INVALID_ARGUMENT)
        assert reason_of(answer) == "CURSOR_INVALID"


def test_the_cursors_of_a_log_are_accepted_and_end_it_the_same(
    stub: JobServiceStub, finished: str
) -> None:
    whole = ask(stub, pb.LogsRequest(job=finished))
    *_, end = whole.responses
    assert isinstance(end, pb.LogsResponse)

    for response in whole.responses:
        assert isinstance(response, pb.LogsResponse)
        rest = ask(stub, pb.LogsRequest(job=finished, cursor=response.cursor))
        last = rest.responses[-1]
        assert isinstance(last, pb.LogsResponse)
        assert last.end.sent_stdout_bytes <= last.end.stdout_bytes
        for one in (last, end):  # how much this very call has sent
            one.end.ClearField("sent_stdout_bytes")
            one.end.ClearField("sent_stderr_bytes")
        assert last == end


def test_the_server_answers_after_all_this(alice: Client) -> None:
    job = alice.start("echo", "well")

    assert alice.logs_raw(job) == (b"well\n", b"")
