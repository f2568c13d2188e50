"""What a ``ray://`` URL of tooz may say."""

from __future__ import annotations

import pytest

tooz = pytest.importorskip("tooz")

from tooz import coordination  # noqa: E402

from partition_actor.deployment import NAME, NAMESPACE  # noqa: E402
from partition_actor.tooz import parts  # noqa: E402
from partition_actor.tooz import url as tooz_url  # noqa: E402


def driver(url, **options):
    return coordination.get_coordinator(url, b"member", **options)


def target(url, **options):
    return driver(url, **options)._target


def test_an_empty_url_means_what_deploy_means():
    found = target("ray://")
    assert (found.host, found.namespace, found.name) == (None, NAMESPACE, NAME)
    assert (found.membership_timeout, found.lock_timeout, found.wanted) == (30.0, 30.0, None)


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
    found = target(url)
    assert (found.host, found.port, found.namespace, found.name) == expected


def test_options_by_url_and_by_keyword():
    found = target("ray://?timeout=5&ttl=8&hold=1.5&pin_to_head=false", lock_timeout=7)
    assert (found.membership_timeout, found.lock_timeout) == (5.0, 7.0)
    assert (found.wanted.ttl, found.wanted.hold, found.wanted.pin_to_head) == (8.0, 1.5, False)
    assert target("ray://?membership_timeout=4").membership_timeout == 4.0
    only_ours = target("ray://?call_timeout=2")
    assert (only_ours.settings.call_timeout, only_ours.wanted) == (2.0, None)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ray://?timout=5", "option timout: there is none of that name"),
        ("ray://?timeout=soon", "option timeout: got 'soon', expected a number of seconds above 0"),
        ("ray://?lock_timeout=0", "option lock_timeout: got 0, expected a number of seconds above 0"),
        ("ray://?ttl=0", "option ttl: got 0"),
        ("ray:///a/b/c", r"got the path '/a/b/c', expected /\[namespace/\]\[name\]"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(url, says):
    with pytest.raises(tooz.ToozError, match=says):
        driver(url)


def test_an_id_is_the_same_as_bytes_and_as_str():
    assert parts.text_of(b"a\xc3\xa4") == parts.text_of("aä") == "aä"
    with pytest.raises(tooz.ToozError, match="expected text in UTF-8"):
        parts.text_of(b"\xff")
    with pytest.raises(tooz.ToozError, match="expected text in UTF-8"):
        coordination.get_coordinator("ray://", b"\xff")


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
    with pytest.raises(coordination.ToozConnectionError, match="no Ray runs here, and none is started"):
        driver("ray://").start()
