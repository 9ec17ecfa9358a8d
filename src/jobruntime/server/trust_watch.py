"""Keeps a server's trust up to date while it serves, and tells in the log of what ends soon."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Iterator
from typing import Final

from cryptography import x509

from jobruntime.model.errors import JobError
from jobruntime.worker.watches import DirectoryWatch

from .expiry import format_left, is_ending
from .trust import Trust

_logger = logging.getLogger("jobd")
_DAY_S: Final = 86_400.0


@contextlib.contextmanager
def kept_fresh(trust: Trust) -> Iterator[None]:
    """Read changed files at once while this lasts, and tell daily of what ends soon."""
    daily = asyncio.get_running_loop().create_task(_warn_daily(trust))
    try:
        with _watched(trust):
            yield
    finally:
        daily.cancel()


async def reload_trust(trust: Trust) -> str:
    """Read the files of [tls] again, changed or not; say so. What is wrong with one is logged."""
    trust.refresh(force=True)
    return "read again"


@contextlib.contextmanager
def _watched(trust: Trust) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            watch = DirectoryWatch(lambda: _on_change(trust, watch))
            stack.callback(watch.close)
            watch.add(trust.directories)
        except OSError as error:
            _logger.warning(
                "cannot watch the certificates' directories (%s): open streams of a revoked "
                "certificate end with the next call of anybody, or on SIGHUP",
                error,
            )
        yield


def _on_change(trust: Trust, watch: DirectoryWatch) -> None:
    trust.refresh()
    # A link may lead elsewhere now.
    with contextlib.suppress(OSError):
        watch.add(trust.directories)


async def _warn_daily(trust: Trust) -> None:
    while True:
        _warn(trust)
        await asyncio.sleep(_DAY_S)


def _warn(trust: Trust) -> None:
    now = dt.datetime.now(dt.UTC)
    server = x509.load_pem_x509_certificate(trust.material.pair.chain)
    for what, certificate in (
        ("the server's certificate", server),
        *((f"the CA {one.subject.rfc4514_string()}", one) for one in trust.material.authorities),
    ):
        left = certificate.not_valid_after_utc - now
        if left <= dt.timedelta(0):
            _logger.error("%s has expired: docs/certificates.md tells how to renew it", what)
        elif is_ending(certificate, now):
            _logger.warning("%s ends soon: %s; renew it", what, format_left(left))
    try:
        trust.check_lists()
    except JobError as error:
        _logger.error("%s; the list stays in force", error)
