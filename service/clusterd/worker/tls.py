"""A certificate and its key, from memory: checked before anything is served with them, and made what an engine takes.

Python's ssl reads files only, so the contents are put into memfds, which are nowhere but in memory.
"""

from __future__ import annotations

import calendar
import contextlib
import os
import ssl
import time
from collections.abc import Iterator
from typing import Any

from .boot import Tls as Tls
from .refusal import Refusal

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"
_ENCRYPTED = ("ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED")
_SOON = 7 * 86400
"""Seconds of validity below which it is told: certbot and its kind renew with weeks left."""


def context(tls: Tls) -> ssl.SSLContext:
    """For a server, HTTP/1.1 by ALPN. Made before the workers are forked, so that a session's ticket is good for any.

    Raises Refusal when certificate and key are not what they should be, or not each other's.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = _VERSIONS[tls.minimum_version]
    made.set_alpn_protocols(["http/1.1"])
    check(tls, made)
    return made


def problem(tls: Tls) -> str:
    """What `check` refuses, "" for nothing; it begins with the key and a colon."""
    try:
        check(tls)
    except Refusal as e:
        return e.reason
    return ""


def check(tls: Tls, into: ssl.SSLContext | None = None) -> None:
    """Raises Refusal."""
    _check_text(tls)
    made = into or ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with files(tls) as (certificate, key):
        try:
            made.load_cert_chain(certificate, key, password=_no_password)
        except ssl.SSLError as e:
            raise Refusal(_reason(e)) from None
        except OSError as e:
            raise Refusal(f"tls.certificate: {e.strerror}") from None


@contextlib.contextmanager
def files(tls: Tls) -> Iterator[tuple[str, str]]:
    """Paths of certificate and key, for as long as they are being read; of this process and its children alone."""
    made = []
    try:
        for name, text in (("certificate", tls.certificate), ("key", tls.key)):
            fd = os.memfd_create(name)
            made.append(fd)
            data = text.encode()
            while data:
                data = data[os.write(fd, data) :]
        yield f"/proc/self/fd/{made[0]}", f"/proc/self/fd/{made[1]}"
    finally:
        for fd in made:
            os.close(fd)


def warning(tls: Tls, now: float | None = None) -> str:
    """What the operator should know about the time it is valid, "" for nothing. `now` is wall time."""
    now = time.time() if now is None else now
    found = facts(tls)
    begins, ends = _when(found.get("notBefore")), _when(found.get("notAfter"))
    if ends is not None and ends < now:
        return f"it expired on {found['notAfter']}: clients will refuse it"
    if begins is not None and begins > now:
        return f"it is not valid before {found['notBefore']}: clients will refuse it"
    if ends is not None and ends < now + _SOON:
        return f"it expires on {found['notAfter']}"
    return ""


def facts(tls: Tls) -> dict[str, Any]:
    """serialNumber, notBefore, notAfter, subject and more of the first certificate; {} where Python cannot tell."""
    decode = getattr(getattr(ssl, "_ssl", None), "_test_decode_cert", None)  # in every CPython, but not promised
    if decode is None:
        return {}
    with files(tls) as (certificate, _), contextlib.suppress(ssl.SSLError, OSError, ValueError):
        found: dict[str, Any] = decode(certificate)
        return found
    return {}


def _when(text: str | None) -> float | None:
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        return float(calendar.timegm(time.strptime(text, "%b %d %H:%M:%S %Y GMT")))
    return None


def _check_text(tls: Tls) -> None:
    if _BEGIN not in tls.certificate or _END not in tls.certificate:
        raise Refusal(f"tls.certificate: no certificate in PEM in it: expected '{_BEGIN}' (openssl x509 -inform der)")
    if "PRIVATE KEY-----" not in tls.key:
        raise Refusal("tls.key: no private key in PEM in it: expected '-----BEGIN PRIVATE KEY-----' or the like")
    if any(word in tls.key for word in _ENCRYPTED):
        _no_password()


def _no_password() -> str:
    raise Refusal(
        "tls.key: it is encrypted, and nobody is there to type its passphrase: openssl pkey -in KEY -out PLAIN"
    )


def _reason(error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return (
            "tls: certificate and key do not belong together: the first certificate in the file must be the key's own"
        )
    if error.reason and "EE_KEY_TOO_SMALL" in error.reason:
        return "tls.certificate: its key is too short for OpenSSL to serve with: 2048 bits of RSA, or an EC key"
    return f"tls: certificate or key cannot be read as PEM: {error.reason or error}"
