"""Certificates for the length of a test run."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """Signs certificates for the length of a test run."""

    def __init__(self, folder: Path, called: str) -> None:
        self.folder, self.called, self.key = folder, called, ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(called, self.key, True)
        self.ca = folder / f"{called}.pem"
        self.ca.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def _sign(self, subject: str, key: ec.EllipticCurvePrivateKey, is_authority: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        made = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(self.called)).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        made = made.add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        if is_authority:
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
            made = made.add_extension(usage, critical=True)
        made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        return made.sign(self.key, hashes.SHA256())

    def issue(self, subject: str) -> tuple[Path, Path]:
        """(certificate, key)"""
        key = ec.generate_private_key(ec.SECP256R1())
        files = self.folder / f"{subject}.crt", self.folder / f"{subject}.key"
        files[0].write_bytes(self._sign(subject, key, False).public_bytes(Encoding.PEM))
        files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files
