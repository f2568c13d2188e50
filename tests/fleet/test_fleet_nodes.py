"""Fleets on a real second node, which comes, drains and goes."""

import crews
import pytest
import ray
from crews import Clerk
from deployments import LIMIT, wait_until

from partition_actor import Fleet


@pytest.fixture
def make(hasty, group):
    """Make a fleet of this test's group; it is stopped after the test."""
    ray.cloudpickle.register_pickle_by_value(crews)
    made = []

    def make(**options):
        where = {"actor": hasty.name, "namespace": hasty.namespace}
        made.append(Fleet(group, Clerk, exclusive=True, args=(group,), ready_timeout=LIMIT, **where, **options))
        made[-1].start()
        return made[-1]

    yield make
    for fleet in made:
        fleet.stop()


def node_with(resource):
    return next(each["NodeID"] for each in ray.nodes() if each["Alive"] and resource in each["Resources"])


def nodes_of(fleet):
    return sorted(each["node"] for each in fleet.status()["workers"] if each["phase"] == "serving")


def test_one_worker_a_node_follows_the_nodes_that_come_and_drain(make, drain_node, request):
    fleet = make(per_node=1)
    here = ray.get_runtime_context().get_node_id()
    assert nodes_of(fleet) == [here]
    there = node_with(request.getfixturevalue("another_node"))
    wait_until(lambda: nodes_of(fleet) == sorted([here, there]) and fleet.status()["ready"])
    assert sorted(fleet.slots()) == [0, 1]
    drain_node(there)
    wait_until(lambda: [each["node"] for each in fleet.status()["workers"]] == [here])


def test_the_replacement_of_a_worker_on_a_draining_node_is_ready_before_that_hands_over(make, drain_node, another_node):
    there = node_with(another_node)
    wait_until(lambda: sum(each["Alive"] for each in ray.nodes()) == 2)  # that of the test before is gone
    fleet = make(size=2, spread="node")
    old = next(each for each in fleet.status()["workers"] if (each["node"], each["phase"]) == (there, "serving"))
    keys = ray.get(fleet.workers()[old["slot"]].mine.remote())
    drain_node(there)
    phases = []

    def is_over():
        workers = {each["number"]: each["phase"] for each in fleet.status()["workers"] if each["slot"] == old["slot"]}
        phases.append(workers)
        return old["number"] not in workers

    wait_until(is_over)
    fleet.wait_until_ready(LIMIT)
    assert all("serving" in each.values() for each in phases)
    assert any(list(each.values()) == ["serving", "joining"] for each in phases)
    assert there not in nodes_of(fleet)
    assert ray.get(fleet.workers()[old["slot"]].mine.remote()) == keys
