"""Which Ray cluster a program joins."""

import pytest

from jobs.driver.cluster import resolve


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
