"""Certificates for a Ray with TLS, each signed by an authority of its own."""

import datetime
import ipaddress

import ray
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def make_certificates(folder):
    """The environment of a process with a certificate for this host, and the authority that signed it, in `folder`."""
    folder.mkdir()
    authority = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    hosts = {"127.0.0.1", ray.util.get_node_ip_address()}  # Ray turns the first into the second
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host)) for host in sorted(hosts)])
    signed = {
        "authority": _sign(
            "authority", authority.public_key(), authority, x509.BasicConstraints(ca=True, path_length=None)
        ),
        "own": _sign("node", key.public_key(), authority, names),
    }
    for name, certificate in signed.items():
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "own.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(folder / "own.crt"),
        "RAY_TLS_SERVER_KEY": str(folder / "own.key"),
        "RAY_TLS_CA_CERT": str(folder / "authority.crt"),
    }


def _sign(name, public_key, authority, extension):
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        .sign(authority, hashes.SHA256())
    )
