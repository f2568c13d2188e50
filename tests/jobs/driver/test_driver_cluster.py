"""Which Ray cluster a program joins."""

import socket

import pytest

from jobs.driver import cluster
from jobs.driver.cluster import join, resolve
from jobs.driver.command_line import InputError


@pytest.mark.parametrize(
    ("given", "environment", "joined"),
    [
        (None, None, "local"),
        (None, "", "local"),
        (None, "1.2.3.4:6379", "1.2.3.4:6379"),
        ("auto", None, "auto"),
        ("auto", "1.2.3.4:6379", "1.2.3.4:6379"),
        ("local", "1.2.3.4:6379", "local"),
        ("5.6.7.8:6379", "1.2.3.4:6379", "5.6.7.8:6379"),
    ],
)
def test_which_ray_is_joined(monkeypatch, given, environment, joined):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment is not None:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    assert resolve(given, default="local") == joined


@pytest.fixture(autouse=True)
def never_joined(monkeypatch):
    """Ray itself is not asked: it would try for 20 seconds, and print warnings."""
    monkeypatch.setattr(cluster.ray, "init", lambda **_: pytest.fail("Ray was asked"))


def test_auto_without_a_cluster_is_refused_at_once(monkeypatch):
    def none_is_here(_):
        raise ConnectionError("Could not find any running Ray instance.\nPlease start one.")

    monkeypatch.setattr(cluster, "bootstrap_address", none_is_here)
    with pytest.raises(InputError, match=r"--address auto: cannot join Ray: Could not find .* Please start one"):
        join("auto")


def test_auto_that_leads_to_a_cluster_that_has_ended_is_refused_at_once(monkeypatch):
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody_listens.getsockname()[1]}"
        monkeypatch.setattr(cluster, "bootstrap_address", lambda _: address)
        with pytest.raises(InputError, match=f"cannot join Ray: connection refused at {address}"):
            join("auto")
