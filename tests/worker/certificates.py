"""Certificates to test with, made by openssl."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lacking import lacking


@dataclass(frozen=True)
class Pair:
    """Paths; `serial` is how a client tells one from another, in hexadecimal."""

    certificate: Path
    key: Path
    serial: str

    @property
    def contents(self) -> dict[str, str]:
        return {"certificate": self.certificate.read_text(), "key": self.key.read_text()}


def make(directory: Path, name: str, serial: int, *, ends: str = "") -> Pair:
    """A self-signed certificate for localhost; `ends` is when, as "20200101000000Z"."""
    lacking(None if shutil.which("openssl") else "missing: openssl")
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "30", "-set_serial", str(serial)]
    _openssl("req", "-x509", *curve, *names, "-keyout", str(key), "-out", str(certificate))
    if ends:
        # `openssl req` takes a date only from version 3.4 on
        config = directory / f"{name}.cnf"
        for part in ("index", "serial"):
            (directory / f"{name}.{part}").write_text("" if part == "index" else f"{serial:04x}\n")
        config.write_text(
            f"[ca]\ndefault_ca = it\n[it]\ndatabase = {directory / name}.index\nserial = {directory / name}.serial\n"
            f"new_certs_dir = {directory}\ndefault_md = sha256\npolicy = any\n[any]\ncommonName = supplied\n"
        )
        request = directory / f"{name}.csr"
        _openssl("req", "-new", "-key", str(key), "-subj", "/CN=localhost", "-out", str(request))
        _openssl("ca", "-batch", "-selfsign", "-config", str(config), "-keyfile", str(key), "-in", str(request),
                 "-out", str(certificate), "-startdate", "20190101000000Z", "-enddate", ends)  # fmt: skip
    return Pair(certificate, key, f"{serial:X}")


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL)
