"""Finds out why a server cannot be reached; gRPC says no more than that it is so."""

from __future__ import annotations

import socket
import ssl

from jobruntime.model.durations import format_duration

from .failure import Exit, Failure
from .settings import Settings

_HOST_MISMATCH = 62  # X509_V_ERR_HOSTNAME_MISMATCH, and ..._IP_ADDRESS_MISMATCH
_IP_MISMATCH = 64
_NOT_YET_VALID = 9
_EXPIRED = 10


def diagnose(settings: Settings, timeout_ms: int) -> Failure | None:
    """Return why a connection cannot be made, None if it can; takes at most twice `timeout_ms`."""
    try:
        with socket.create_connection(settings.host_and_port(), timeout_ms / 1000) as plain:
            return _diagnose_tls(settings, plain)
    except socket.gaierror as error:
        cause = f"the host is not known ({error.strerror})"
        return _unreachable(settings, cause, "check the address")
    except ConnectionRefusedError:
        return _unreachable(
            settings, "nothing listens there", "check the address, or start the server: jobd serve"
        )
    except TimeoutError:
        return _unreachable(
            settings,
            f"no answer within {format_duration(settings.connect_timeout_ms)}",
            "check the address and what filters the way, or give a longer --connect-timeout",
        )
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        return _unreachable(settings, cause, "check the address and the network")


def _diagnose_tls(settings: Settings, plain: socket.socket) -> Failure | None:
    try:
        context = _context(settings)
    except OSError as error:
        return _unreachable(settings, f"the certificates cannot be used ({error})", "check them")
    try:
        with context.wrap_socket(plain, server_hostname=settings.host_and_port()[0]) as tls:
            # In TLS 1.3 a server looks at the client's certificate after the client's handshake
            # is over; its first bytes (HTTP/2 SETTINGS) or its alert say what it thinks of it.
            if tls.recv(1):
                return None
            return _refused_client(settings, "it closed the connection")
    except ssl.SSLCertVerificationError as error:
        return _bad_server_certificate(settings, error)
    except ssl.SSLError as error:
        return _tls_failure(settings, error)
    except TimeoutError:
        return _unreachable(
            settings,
            "something accepts the connection there and says nothing",
            "check that the server is not paused or overloaded, and that the port is jobd's",
        )
    except OSError:
        return _refused_client(settings, "it closed the connection")


def _context(settings: Settings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(settings.ca)
    context.load_cert_chain(settings.cert, settings.key, password="")
    return context


def _bad_server_certificate(settings: Settings, error: ssl.SSLCertVerificationError) -> Failure:
    if error.verify_code in (_HOST_MISMATCH, _IP_MISMATCH):
        host = settings.host_and_port()[0]
        return _unreachable(
            settings,
            f"the server's certificate is not for {host}",
            "use a name that it is for, or renew it with this one (docs/certificates.md)",
        )
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        return _unreachable(
            settings,
            f"the server's certificate, or its CA's, is not valid now ({error.verify_message})",
            "check this machine's clock, or renew the server's certificate",
        )
    return _unreachable(
        settings,
        f"the server's certificate is not of the CA in {settings.ca} ({error.verify_message})",
        "check --ca, JOBC_CA or the settings file: it must be the CA of this server",
    )


def _tls_failure(settings: Settings, error: ssl.SSLError) -> Failure:
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if "alert" in reason and "protocol version" not in reason:
        return _refused_client(settings, reason)
    return _unreachable(
        settings,
        f"the TLS handshake failed ({reason})",
        "check that the port is jobd's; it speaks TLS 1.3 only",
    )


def _refused_client(settings: Settings, cause: str) -> Failure:
    return _unreachable(
        settings,
        f"the server refused the TLS handshake with the client certificate {settings.cert} "
        f"({cause})",
        "use a client certificate of this server's CA that has not expired: jobd cert issue",
    )


def _unreachable(settings: Settings, cause: str, remedy: str) -> Failure:
    return Failure(Exit.OWN_FAILURE, f"cannot reach the server {settings.addr}: {cause}", remedy)
