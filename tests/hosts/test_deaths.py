"""The death of a member on another host is known as soon as Ray knows it; that of a host, after a lease."""

import os
import statistics
from pathlib import Path

import bed
import pytest
from ray_hosts import Driver, RayHosts

from partition_actor import Settings, clock

HERE = Path(__file__).parent
KILLS = 40 if os.environ.get("HOSTS") == "all" else 5
SETTINGS = Settings()
LEASE_AND_PROOF = SETTINGS.ttl * (1 + SETTINGS.clock_rate_margin) + SETTINGS.node_proof_interval


@pytest.fixture(scope="module")
def hosts(can_make_hosts):
    with bed.Hosts(3) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def driver(hosts):
    return Driver(RayHosts(hosts, HERE), HERE / "death_driver.py")


def test_a_death_on_another_host_is_known_long_before_its_lease_ends(driver, measured):
    for what, kill in (
        ("all members know of a death", driver.of_member),
        ("a bare Ray call fails", driver.of_bare_actor),
    ):
        took = sorted(kill(2) for _ in range(KILLS))
        measured(f"{KILLS} kills, {what}", best=took[0], median=statistics.median(took), worst=took[-1])
        assert statistics.median(took) < SETTINGS.ttl - SETTINGS.hold  # what it takes if only the lease tells


@pytest.mark.slow_hosts
def test_a_host_that_is_powered_off_is_known_after_a_lease(hosts, driver, measured):
    """The last one: the host does not come back. Nothing tells of its end but silence."""
    driver.wait_for_members()
    began = clock.now()
    hosts.power_off(2)
    took = driver.when_heard("on-2") - began
    measured("all members know of a power failure", took=took, bound=LEASE_AND_PROOF)
    assert took < LEASE_AND_PROOF + SETTINGS.handoff_timeout
