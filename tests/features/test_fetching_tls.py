"""Pictures over HTTPS: certificates are checked, and encrypted answers have to come in time too."""

import datetime
import ipaddress
import ssl
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from picture_server import DRIPS, RED, SOON, answer, fetch, head, raw, redirect


@pytest.fixture
def certificate(tmp_path):
    """A file with a key and the certificate that it signed for this machine itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    private = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem = serialization.Encoding.PEM
    path.write_bytes(key.private_bytes(pem, *private) + signed.public_bytes(pem))
    return path


@pytest.fixture
def secure(shop, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    shop.socket = context.wrap_socket(shop.socket, server_side=True, do_handshake_on_connect=False)
    shop.scheme = "https"
    return shop


@pytest.fixture
def trusted(secure, certificate, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    return secure


def test_a_picture_comes_over_https_and_through_redirects(trusted):
    url = trusted.serve("red", answer(RED))
    assert fetch(trusted.serve("a", redirect(url))).content == RED


def test_a_certificate_that_nobody_vouches_for_is_a_passing_fault(secure):
    found = fetch(secure.serve("red", answer(RED)), download_retries=1)
    assert found.reason.startswith("127.0.0.1 cannot be reached (")
    assert "certificate verify failed" in found.reason
    assert (found.passing, found.silent, secure.asked, secure.num_connections) == (True, True, [], 2)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([head(b"Content-Length: 1000"), *[b"x"] * DRIPS], "takes longer than 0.6 s"),
        ([b"HTTP/1.1 200 OK\r\nX: ", *[b"x"] * DRIPS], "127.0.0.1 does not answer within 0.3 s"),
    ],
    ids=["body", "head"],
)
def test_an_encrypted_answer_that_drips_is_left_at_the_deadline(trusted, parts, reason):
    started = time.monotonic()
    found = fetch(trusted.serve("a", raw(*parts, every=0.05)), download_timeout_seconds=0.3, download_retries=0)
    assert (found.reason, found.passing) == (reason, True)
    assert time.monotonic() - started < SOON
