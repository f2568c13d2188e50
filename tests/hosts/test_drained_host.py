"""`ray drain-node` on a host: its exclusive members hand over through their callbacks, and then it ends."""

import sys

import bed
import pytest
from deployments import wait_until
from ray_hosts import HEAD, PORT
from test_cuts import EVERYBODY, LEASE_AND_PROOF, WORKERS, Cluster

from partition_actor import clock

DRAINED = 2
OTHERS = WORKERS.keys() - {DRAINED}
DEADLINE = 60
"""Seconds. Ray ends no process then: it only tells."""


@pytest.fixture
def cluster(can_make_hosts, tmp_path):
    with bed.Hosts(3, share=[tmp_path]) as hosts:
        yield Cluster(hosts, tmp_path)


def drain(cluster):
    options = {"address": f"{bed.address(HEAD)}:{PORT}", "node-id": cluster.driver.node(DRAINED)}
    options |= {"reason": "DRAIN_NODE_REASON_PREEMPTION", "reason-message": "test"}
    options |= {"deadline-remaining-seconds": DEADLINE}
    ray = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
    cluster.hosts.run(HEAD, [*ray, *(f"--{name}={value}" for name, value in options.items())])


def test_all_keys_move_through_callbacks_before_a_drained_host_ends(cluster, measured):
    began = clock.now()
    cluster.wait_until_served(began)
    moving = {unit.key for unit in cluster.units(began, {DRAINED})}
    usual = cluster.longest_pause(began, clock.now())
    asked = clock.now()
    drain(cluster)
    told = clock.now()
    wait_until(lambda: cluster.driver.members() == [each for each in EVERYBODY if int(each[0]) in OTHERS])
    moved = clock.now()
    cluster.wait_until_served(moved, OTHERS)
    handed_over = cluster.driver.lost(*WORKERS[DRAINED])
    assert all(asked < handed_over[key] for key in moving)
    taken = cluster.first(asked, OTHERS)
    waits = [taken[key] - handed_over[key] for key in moving]
    pause = cluster.longest_pause(asked, clock.now())
    measured("ray drain-node", members_have_left_after=moved - told, longest_pause=pause, usual_pause=usual)
    measured("ray drain-node, from the end of a key's callback to its next owner's work", longest=max(waits))

    epochs, ended = cluster.driver.epochs(), clock.now()
    cluster.hosts.power_off(DRAINED)
    cluster.wait_until_served(ended + LEASE_AND_PROOF, OTHERS)
    assert cluster.driver.epochs() == epochs  # nothing moves any more
    assert cluster.units(moved, {DRAINED}) == []
    measured("a drained host powered off", longest_pause=cluster.longest_pause(ended, clock.now()))
    cluster.judge()
