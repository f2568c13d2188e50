"""Settings that change while the partition actor runs."""

import pytest

from partition_actor.core.driver import MembershipDriver
from partition_actor.core.member import MemberState
from partition_actor.core.membership import Membership
from partition_actor.errors import InvalidSettings, PartitionActorUnavailable
from partition_actor.settings import Settings

SETTINGS = Settings(ttl=10.0, hold=2.0)


class Rig:
    """A partition actor with one member of an exclusive group."""

    def __init__(self, **options):
        self.now = 0.0
        self.driver = MembershipDriver(Membership(SETTINGS, 1, 0.0, first=True, records=True, **options))
        self.membership = self.driver.membership
        self.driver.proof(0.0, 0.0)
        self.member = MemberState("a", "s", SETTINGS)
        self.member.join("group", exclusive=True)
        for _ in range(3):
            self.beat()

    def beat(self):
        self.driver.proof(self.now, self.now)
        request = self.member.request(self.now)
        self.driver.request(self.now, request)
        reply = self.driver.reply(self.now, ("a", "s"), request["seq"])
        for change in self.member.receive(reply) or ():
            self.member.acknowledge(change.group, change.after.epoch)
        return reply

    def configure(self, **changes):
        settings = self.membership.settings.changed(changes)
        steps = self.driver.configure(settings, self.membership.settings_version + 1)
        self.driver.begin(self.now, "call", steps)
        return self.driver.actions(self.now)

    def get_subset(self):
        self.driver.begin(self.now, "subset", self.driver.get_subset("group", ("bare", ""), 1))
        self.driver.proof(self.now, self.now)


def test_a_shorter_ttl_applies_from_the_next_heartbeat_and_moves_no_key():
    rig = Rig()
    epoch = rig.membership.groups["group"].epoch
    assert "settings" not in rig.beat()
    assert rig.configure(ttl=5.0, hold=1.0).results == [("call", None)]
    assert rig.membership.lease_left(rig.now, ("a", "s")) == pytest.approx(10.2)
    reply = rig.beat()
    assert (reply["lease"], reply["interval"], reply["settings"]) == (5.0, 1.0, 1)
    assert rig.membership.groups["group"].epoch == epoch
    assert rig.membership.lease_left(rig.now, ("a", "s")) == pytest.approx(10.2)  # as it was granted before
    for _ in range(6):
        rig.now += 1.0
        rig.beat()
    assert rig.membership.lease_left(rig.now, ("a", "s")) == pytest.approx(5.1)


def test_a_longer_ttl_applies_once_a_record_of_it_is_proven():
    rig = Rig()
    waits = rig.configure(ttl=20.0)
    assert waits.results == []
    assert waits.prove
    assert rig.beat()["lease"] == 10.0
    assert rig.membership.settings.ttl == 10.0
    rig.driver.proof(rig.now, rig.now, recorded=20.0)
    assert rig.driver.actions(rig.now).results == [("call", None)]
    assert rig.beat()["lease"] == 20.0


def test_a_heartbeat_that_is_held_meanwhile_brings_no_longer_interval_than_its_lease_allows():
    """The next heartbeat would be held for longer than that lease, the only one that the member knows of."""
    rig = Rig()
    request = rig.member.request(rig.now)
    rig.driver.request(rig.now, request)
    rig.configure(ttl=100.0, hold=20.0, handoff_timeout=20.0)
    rig.driver.proof(rig.now, rig.now, recorded=100.0)
    rig.driver.actions(rig.now)
    reply = rig.driver.reply(rig.now, ("a", "s"), request["seq"])
    assert (reply["lease"], reply["interval"]) == (10.0, 2.0)
    rig.member.receive(reply)
    reply = rig.beat()
    assert (reply["lease"], reply["interval"]) == (100.0, 20.0)


def test_a_reply_without_a_lease_makes_the_interval_no_longer():
    """The partition actor has crashed since: what the member tells it must come before the lease that runs is over."""
    rig = Rig()
    successor = MembershipDriver(Membership(Settings(ttl=100.0, hold=20.0, handoff_timeout=20.0), 2, 0.0))
    request = rig.member.request(rig.now)
    successor.request(rig.now, request)
    reply = successor.reply(rig.now, ("a", "s"), request["seq"])
    assert reply["lease"] == 0.0
    rig.member.receive(reply)
    assert rig.member.interval == 2.0


def test_a_stall_is_measured_by_the_settings_that_it_began_with():
    rig = Rig()
    rig.now = rig.membership.deadline() + 8.0  # it was stopped, and heartbeats lie unread in its queue
    rig.configure(hold=4.9)
    assert rig.membership.stalled > 6.0


def test_a_bare_caller_keeps_the_longest_lease_that_it_may_have_been_told_of():
    rig = Rig()
    rig.configure(ttl=5.0, hold=1.0)
    rig.get_subset()
    assert rig.membership.lease_left(rig.now, ("bare", "")) == pytest.approx(10.2)


def test_so_does_one_of_a_partition_actor_that_was_restarted():
    rig = Rig(longest_told=30.0)
    rig.get_subset()
    assert rig.membership.longest_allowed == 30.0
    assert rig.membership.lease_left(rig.now, ("bare", "")) == pytest.approx(30.6)


def test_the_change_is_told_among_the_events():
    rig = Rig()
    rig.configure(hold=1.0, handoff_timeout=4.0)
    latest = rig.membership.events.read()["events"][-1]
    assert (latest["what"], latest["why"]) == ("settings", "hold from 2.0 to 1.0, handoff_timeout from 10.0 to 4.0")


def test_the_publish_window_of_a_group_changes():
    rig = Rig()
    rig.configure(publish_window=0.0)
    rig.membership.join(rig.now, "group", ("b", ""), 1, None, True)
    rig.membership.join(rig.now, "group", ("c", ""), 1, None, True)
    assert set(rig.membership.groups["group"].members) == {"a", "b", "c"}


def test_one_that_is_shut_down_refuses():
    rig = Rig()
    rig.driver.end(rig.now)
    ((_, error),) = rig.configure(hold=1.0).results
    assert isinstance(error, PartitionActorUnavailable)


FIXED = {
    "vnodes": 7,
    "hash_function": "md5",
    "max_members": 7,
    "pin_to_head": False,
    "new_cluster_wait": 7.0,
    "call_timeout": 7.0,
}


@pytest.mark.parametrize("name", FIXED)
def test_a_field_that_cannot_change_is_named_with_its_reason(name):
    other = FIXED[name]
    with pytest.raises(InvalidSettings, match=rf"^{name}: got {other!r}, expected .* until the next deploy\(\): "):
        SETTINGS.changed({name: other, "hold": 1.0})
    assert SETTINGS.changed({name: getattr(SETTINGS, name), "hold": 1.0}).hold == 1.0


@pytest.mark.parametrize("changes", [{"ttl": 3.0}, {"tll": 3.0}, {"hold": "1"}, ["hold"], None])
def test_bad_changes_are_refused_as_bad_settings_are(changes):
    with pytest.raises(InvalidSettings):
        SETTINGS.changed(changes)
