"""What a ``ray://`` URL of tooz can say, and which Ray it connects to."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

tooz = pytest.importorskip("tooz")

from tooz import coordination  # noqa: E402

from partition_actor.deployment import NAME, NAMESPACE  # noqa: E402
from partition_actor.tooz import url as tooz_url  # noqa: E402


def driver(url, **options):
    return coordination.get_coordinator(url, b"member", **options)


def parsed(url, **options):
    return driver(url, **options).url


def test_an_empty_url_means_what_deploy_means():
    found = parsed("ray://")
    assert (found.host, found.namespace, found.name) == (None, NAMESPACE, NAME)
    assert (found.membership_timeout, found.lock_timeout, found.deploy_settings) == (30.0, 30.0, None)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ray://head:6380", ("head", 6380, NAMESPACE, NAME)),
        ("ray://head", ("head", 6379, NAMESPACE, NAME)),
        ("ray://head:6380/name", ("head", 6380, NAMESPACE, "name")),
        ("ray://head:6380/space/name", ("head", 6380, "space", "name")),
        ("ray:///space/name/", (None, 6379, "space", "name")),
    ],
)
def test_the_address_and_the_names(url, expected):
    found = parsed(url)
    assert (found.host, found.port, found.namespace, found.name) == expected


def test_options_by_url_and_by_keyword():
    found = parsed("ray://?timeout=5&ttl=8&hold=1.5&pin_to_head=false", lock_timeout=7)
    assert (found.membership_timeout, found.lock_timeout) == (5.0, 7.0)
    assert (found.deploy_settings.ttl, found.deploy_settings.hold, found.deploy_settings.pin_to_head) == (
        8.0,
        1.5,
        False,
    )
    assert parsed("ray://?membership_timeout=4").membership_timeout == 4.0
    only_ours = parsed("ray://?call_timeout=2")
    assert (only_ours.settings.call_timeout, only_ours.deploy_settings) == (2.0, None)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ray://?timout=5", "option timout: there is no such option, expected one of timeout, "),
        ("ray://?timeout=soon", "option timeout: got 'soon', expected a number of seconds above 0"),
        ("ray://?lock_timeout=0", "option lock_timeout: got 0, expected a number of seconds above 0"),
        ("ray://?ttl=0", "option ttl: got 0"),
        ("ray:///a/b/c", r"got the path '/a/b/c', expected /\[namespace/\]\[name\]"),
    ],
)
def test_a_wrong_path_or_option_is_refused_at_once(url, says):
    with pytest.raises(tooz.ToozError, match=says):
        driver(url)


def test_no_ray_is_started(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(tooz_url.ray, "is_initialized", lambda: False)
    with pytest.raises(coordination.ToozConnectionError, match=r"no Ray answers at 127\.0\.0\.1:1"):
        driver("ray://").start()
    with pytest.raises(coordination.ToozConnectionError, match="no Ray answers at localhost:2"):
        driver("ray://localhost:2").start()

    def init(**options):
        assert options["address"] == "auto"
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(tooz_url.ray, "init", init)
    with pytest.raises(
        coordination.ToozConnectionError, match="no Ray runs on this machine, and this driver starts none"
    ):
        driver("ray://").start()


@pytest.mark.parametrize("url", ["ray://127.0.0.1:7000", "ray://192.0.2.1:6379"])
def test_a_process_in_another_ray_is_told_so(url, monkeypatch):
    here = SimpleNamespace(gcs_address="127.0.0.1:6379")
    monkeypatch.setattr(tooz_url.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(tooz_url.ray, "get_runtime_context", lambda: here)
    with pytest.raises(coordination.ToozConnectionError, match=r"at 127\.0\.0\.1:6379 and cannot connect to"):
        driver(url).start()


@pytest.mark.parametrize("url", ["ray://", "ray://127.0.0.1:6379", "ray://localhost"])
def test_a_process_in_this_ray_stays_in_it(url, monkeypatch):
    monkeypatch.setattr(tooz_url.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(tooz_url.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:6379"))
    monkeypatch.setattr(tooz_url.ray, "init", lambda **_: pytest.fail("connects again"))
    tooz_url.connect_to_ray(parsed(url))
