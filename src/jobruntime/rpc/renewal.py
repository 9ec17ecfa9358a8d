"""What both ends of a renewal agree on: which bytes the present key signs."""

from __future__ import annotations

from typing import Final

MAX_CSR_BYTES: Final = 32 * 1024
_PURPOSE: Final = b"jobruntime.v1 renew\0"


def signed_bytes(csr_der: bytes) -> bytes:
    """Return what the proof of a renewal is a signature of: the purpose, and the CSR in DER.

    With a P-256 key it is ECDSA with SHA-256 (DER), with an RSA key PKCS #1 v1.5 with SHA-256.
    """
    return _PURPOSE + csr_der
