import sys
from pathlib import Path

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield
    for name in [
        name for name, module in sys.modules.items() if (getattr(module, "__file__", "") or "").startswith(BENCHMARKS)
    ]:
        del sys.modules[name]


@pytest.fixture
def reports():
    from _tooz_group import Reports

    reports = Reports()
    for number in range(3):
        reports.take({"who": f"w{number}", "pid": 100 + number, "size": 3})
    return reports


def left(who, victim, at, size=2):
    return {"who": who, "at": at, "size": size, "left": victim}


def test_a_failover_lasts_until_the_last_survivor_knows(reports):
    assert reports.all_see(3)
    assert reports.kill("w0") == 100
    reports.take(left("w1", "w0", 5.0))
    assert reports.last_heard("w0") is None
    assert not reports.all_see(2)
    reports.take(left("w2", "w0", 4.0))
    assert reports.last_heard("w0") == 5.0
    assert reports.all_see(2)
    assert reports.expired_alive is None


def test_a_live_member_that_is_seen_leaving_makes_the_settings_unstable(reports):
    reports.take(left("w1", "w0", 5.0))
    assert "w1 saw w0 leave" in reports.expired_alive


def test_what_a_worker_said_before_it_was_killed_no_longer_counts(reports):
    reports.kill("w0")
    reports.take(left("w0", "w1", 5.0))
    assert reports.expired_alive is None
    assert set(reports.pids) == {"w1", "w2"}


def test_a_failed_poll_is_recorded_but_is_no_expiry(reports):
    reports.take({"who": "w1", "error": "ToozError('')"})
    assert reports.errors == ["w1: ToozError('')"]
    assert reports.expired_alive is None
    assert reports.all_see(3)


@pytest.fixture
def ladder():
    from _services import Service
    from _tooz_failover import Settings

    service = Service("any", "any-server", (sys.executable,), "json", "any", lambda *_: [], b"", b"")
    return [Settings(service, ttl, ttl / 4) for ttl in (0.5, 1, 2, 4)]


def search(ladder, stable_from, stall=0):
    from _tooz_failover import Scenario, measure
    from _tooz_group import UnstableError

    tried = []

    def trial(settings, _scenario):
        tried.append(settings.ttl)
        if settings.ttl < stable_from:
            raise UnstableError("a live member was expired")
        return [settings.ttl], 0.1

    return measure("tightest", ladder, Scenario(3, 1, 0, stall), trial), tried


def test_the_tightest_stable_settings_are_the_first_that_expire_nobody(ladder):
    measured, tried = search(ladder, stable_from=2)
    assert tried == [0.5, 1, 2]
    assert measured.settings.ttl == 2
    assert measured.seconds == [2]
    assert [(settings.ttl, why) for settings, why in measured.rejected] == [
        (0.5, "a live member was expired"),
        (1, "a live member was expired"),
    ]


def test_no_lease_is_tried_that_a_stall_outlasts(ladder):
    assert search(ladder, stable_from=0, stall=1)[1] == [2]


def test_a_ladder_without_stable_settings_is_said_to_have_none(ladder):
    measured, tried = search(ladder, stable_from=100)
    assert tried == [0.5, 1, 2, 4]
    assert measured.left_out == "no settings were stable"


def test_a_missing_server_is_left_out_and_says_what_to_install():
    from _services import Service
    from _tooz_failover import Scenario, Settings, measure

    absent = Service("any", "any-server", ("/no/such/program",), "json", "any", lambda *_: [], b"", b"")
    measured = measure("tightest", [Settings(absent, 1, 1)], Scenario(3, 1, 0))
    assert measured.left_out == "not installed: apt-get install any-server"
    assert measured.to_dict()["seconds"] == ()


def test_a_missing_client_is_left_out_too():
    from _services import Service

    assert (
        Service("any", "any-server", (sys.executable,), "no_such_module", "any", lambda *_: [], b"", b"").missing()
        == "not installed: pip install no_such_module"
    )


def test_a_server_that_does_not_start_leaves_its_row_out():
    from _services import Service
    from _tooz_failover import Scenario, Settings, measure

    command = [sys.executable, "-c", "print('no room')"]
    broken = Service("any", "any-server", (sys.executable,), "json", "any", lambda *_: command, b"", b"answer")
    measured = measure("tightest", [Settings(broken, 1, 1)], Scenario(3, 1, 0))
    assert "any did not start" in measured.left_out
    assert "no room" in measured.left_out


def test_the_settings_reach_client_and_server():
    from _tooz_failover import etcd, redis, zookeeper

    assert redis(0.2, 0.05).url("127.0.0.1:1") == "redis://127.0.0.1:1?membership_timeout=0.2"
    assert etcd(1, 0.1).url("127.0.0.1:1") == "etcd3+http://127.0.0.1:1?membership_timeout=1"
    # tooz asks for whole seconds; the server grants less.
    assert zookeeper(0.3, 0.1).url("127.0.0.1:1") == "zookeeper://127.0.0.1:1?timeout=1"
    assert zookeeper(0.3, 0.1).server["maxSessionTimeout"] == 300
