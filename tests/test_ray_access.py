"""Why a process cannot join a Ray, asked without ``ray.init``. See ``test_secured_ray`` for tokens and certificates."""

import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from certificates import make_certificates

from partition_actor.ray_access import gcs_problem, refusal_at


@pytest.fixture
def gcs(cluster):
    return cluster.address_info["gcs_address"]


@pytest.fixture
def other_server():
    """Speaks gRPC, and not as Ray does."""
    server = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield address
    server.stop(None)


def test_a_ray_that_lets_this_process_in_has_no_problem(gcs):
    assert gcs_problem(gcs) is None
    assert refusal_at(gcs) is None


def test_a_server_of_another_kind_is_no_ray(other_server):
    assert gcs_problem(other_server) == ("what listens there does not answer as Ray does", False)


def test_where_nothing_listens_nothing_refuses():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert gcs_problem(address) == ("connection refused", False)
    assert refusal_at(address) is None


@pytest.mark.parametrize("address", ["local", "ray://head:10001", "no-address"])
def test_addresses_of_no_gcs_are_left_to_ray(address):
    assert refusal_at(address) is None


def test_tls_is_for_a_ray_that_speaks_it(gcs, monkeypatch, tmp_path):
    for name, value in make_certificates(tmp_path / "mine").items():
        monkeypatch.setenv(name, value)
    assert gcs_problem(gcs) == ("it does not speak TLS, and RAY_USE_TLS=1 here", True)
    assert refusal_at(gcs).endswith("does not let this process in: it does not speak TLS, and RAY_USE_TLS=1 here")


@pytest.mark.parametrize("path", [None, "gone.crt"])
def test_tls_wants_certificates(gcs, monkeypatch, path):
    monkeypatch.setenv("RAY_USE_TLS", "1")
    for name in ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"):
        monkeypatch.delenv(name, raising=False)
        if path:
            monkeypatch.setenv(name, path)
    problem = gcs_problem(gcs)
    assert problem.refuses
    assert problem.why.startswith("RAY_USE_TLS=1 without certificates: ")
    assert (path or "RAY_TLS_CA_CERT") in problem.why
