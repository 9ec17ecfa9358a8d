"""The map from reasons to gRPC codes, both ways."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.model.errors import JobError, Reason
from jobruntime.rpc.errors import CODES, DETAILS_KEY, DOMAIN, Trailer, from_rpc_error, to_status
from jobruntime.rpc.tls import grpc


class Answer(grpc.RpcError):
    """An error as grpc's sync and aio clients raise it: the call itself."""

    def __init__(self, code: grpc.StatusCode, details: str, trailer: Trailer) -> None:
        self._values = code, details, trailer

    def code(self) -> grpc.StatusCode:
        return self._values[0]

    def details(self) -> str:
        return self._values[1]

    def trailing_metadata(self) -> Trailer:  # type: ignore[override]
        return self._values[2]


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_code_and_none_is_unknown_or_ok(reason: Reason) -> None:
    assert CODES[reason] not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.OK)


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_message_and_remedy_come_back_as_they_went(reason: Reason) -> None:
    code, message, trailer = to_status(JobError(reason, "cannot start x: no", "do that"))
    error = from_rpc_error(Answer(code, message, trailer))
    assert (error.code, error.reason) == (CODES[reason], reason)
    assert str(error) == "cannot start x: no; do that"


def test_the_details_are_one_error_info_of_our_domain() -> None:
    _, _, trailer = to_status(JobError(Reason.NAME_IN_USE, "cannot name it: taken"))
    ((key, value),) = trailer
    assert key == DETAILS_KEY
    assert isinstance(value, bytes)
    status = status_pb2.Status.FromString(value)
    assert len(status.details) == 1
    assert status.details[0].type_url == "type.googleapis.com/google.rpc.ErrorInfo"
    assert DOMAIN.encode() in status.details[0].value
    assert status.code == grpc.StatusCode.ALREADY_EXISTS.value[0]


@given(st.text(alphabet=st.characters(exclude_categories=())), st.text(), st.integers(0, 30))
def test_any_text_stays_below_the_limit_of_trailing_metadata(
    message: str, remedy: str, doublings: int
) -> None:
    times = 1 << (doublings // 2)
    _, told, trailer = to_status(JobError(Reason.INTERNAL, message * times, remedy * times))
    ((_, details),) = trailer
    assert len(quote(told, safe="")) <= 3 * 2048
    assert len(told.encode()) <= 2048
    assert len(details) * 4 // 3 + 2048 < 8000


def test_a_long_message_is_cut_with_an_ellipsis_and_a_short_one_is_not() -> None:
    assert to_status(JobError(Reason.INTERNAL, "x" * 100_000))[1].endswith("x…")
    assert to_status(JobError(Reason.INTERNAL, "x" * 2000))[1] == "x" * 2000


def test_a_transport_error_has_no_reason() -> None:
    error = from_rpc_error(Answer(grpc.StatusCode.UNAVAILABLE, "Socket closed", ()))
    assert (error.reason, error.message, error.code) == (
        "",
        "Socket closed",
        grpc.StatusCode.UNAVAILABLE,
    )


def test_details_that_are_not_ours_leave_code_and_message() -> None:
    error = from_rpc_error(
        Answer(grpc.StatusCode.NOT_FOUND, "no", ((DETAILS_KEY, b"\xff\xff\xff"), ("x", "y")))
    )
    assert (error.reason, error.message) == ("", "no")
