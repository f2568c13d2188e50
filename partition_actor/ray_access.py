"""Whether a Ray lets this process in, found out in seconds.

``ray.init`` tries for 20 s with a wrong token and then says only that it failed; it tries for many minutes with a wrong
certificate (Ray 2.60). So the GCS is asked before.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import NamedTuple

import grpc  # type: ignore[import-untyped]

from partition_actor import ray_internals

REACH, ANSWER = 1.5, 2.0
"""Seconds to reach an address, and for a GCS to answer there, which takes it milliseconds."""


class GcsProblem(NamedTuple):
    """Why a GCS is of no use to this process."""

    why: str
    refuses: bool
    """It is there and does not let this process in: waiting will not help."""


def gcs_problem(gcs: str) -> GcsProblem | None:
    """Why nothing that speaks as a GCS answers this process at ``host:port``; None if it does."""
    try:
        _connect(gcs).close()
    except OSError as error:
        return GcsProblem((error.strerror or str(error)).lower(), False)
    try:
        with ray_internals.grpc_channel(gcs) as channel:
            stub, is_alive = ray_internals.gcs_stub(channel)
            stub.CheckAlive(is_alive, timeout=ANSWER)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return GcsProblem(_about_token(), True)
        if error.code() == grpc.StatusCode.UNAVAILABLE and (why := _about_tls(gcs)):
            return GcsProblem(why, True)
        return GcsProblem("what listens there does not answer as Ray does", False)
    except ray_internals.AuthenticationError as error:  # no token is found here
        return GcsProblem(f"{str(error).partition('. ')[0]}; {_TOKEN_PLACES}", True)
    except (OSError, RuntimeError) as error:  # no certificate is found here
        return GcsProblem(f"RAY_USE_TLS=1 without certificates: {error}", True)
    return None


def refusal_at(address: str | None = None) -> str | None:
    """Why the Ray that ``ray.init`` would join at this address refuses this process.

    None if it does not, if there is none, or if it does not answer: ``ray.init`` says so, waits, or starts one.
    """
    given = os.environ.get("RAY_ADDRESS") or "auto" if address in (None, "auto") else address
    if given == "local" or "://" in given:
        return None
    try:
        gcs = ray_internals.bootstrap_address(given)
    except (ConnectionError, ValueError):
        return None
    if given == "auto":
        ray_internals.enable_found_token()  # as ray.init does
    problem = gcs_problem(gcs) if gcs else None
    return refused(gcs, problem) if problem and problem.refuses else None


def refused(gcs: str | None, problem: GcsProblem) -> str:
    """The same of a GCS whose problem is known."""
    return f"the Ray at {gcs} does not let this process in: {problem.why}"


_TOKEN_PLACES = (
    "the cluster's token belongs into RAY_AUTH_TOKEN, a file named by RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
)


def _about_token() -> str:
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        return f"it refuses this process's token: {_TOKEN_PLACES}"
    return f"it wants its token: set RAY_AUTH_MODE=token; {_TOKEN_PLACES}"


def _about_tls(gcs: str) -> str | None:
    """Why TLS keeps this process out, by a handshake without gRPC; None if it does not seem to."""
    ours = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # gRPC compares names in another way
    context.verify_mode = ssl.CERT_REQUIRED if ours else ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    begun = False
    try:
        if ours:
            context.load_verify_locations(os.environ["RAY_TLS_CA_CERT"])
            context.load_cert_chain(os.environ["RAY_TLS_SERVER_CERT"], os.environ["RAY_TLS_SERVER_KEY"])
        with _connect(gcs) as plain, context.wrap_socket(plain) as connection:
            begun = True
            accepted = bool(connection.recv(1))  # a client's certificate is refused only after the handshake
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not signed by the authority in RAY_TLS_CA_CERT: {error.verify_message}"
    except (TimeoutError, ConnectionRefusedError):
        return None
    except OSError as error:
        begun = begun or "ALERT" in (getattr(error, "reason", None) or "")
        accepted = False
    if not begun:
        return "it does not speak TLS, and RAY_USE_TLS=1 here" if ours else None
    if not ours:
        return "it speaks TLS: set RAY_USE_TLS=1, RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY and RAY_TLS_CA_CERT"
    if accepted:
        return "its certificate does not name this address"
    return "it refuses this process's certificate (RAY_TLS_SERVER_CERT): another authority has signed that"


def _connect(gcs: str) -> socket.socket:
    host, _, port = gcs.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), REACH)
