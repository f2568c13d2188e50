"""Ceilometer's own PartitionCoordinator of 2014, unchanged, on ``ray://``: it gives tooz a str as its id."""

from __future__ import annotations

import pytest
from deployments import wait_until

pytest.importorskip("tooz")

from ceilometer_coordination import PartitionCoordinator, cfg

RESOURCES = [f"resource-{number}" for number in range(100)]


@pytest.fixture
def group(group):
    return group.decode()


@pytest.fixture
def agents(tooz, monkeypatch):
    """Two agents, one with an id of its own making."""
    monkeypatch.setattr(cfg.CONF.coordination, "backend_url", tooz.url)
    made = [PartitionCoordinator("ägent"), PartitionCoordinator()]
    for agent in made:
        agent.start()
    yield made
    for agent in made:
        if agent._coordinator.is_started:
            agent._coordinator.stop()


def test_two_agents_share_out_all_resources_exactly_once(agents, group):
    first, second = agents
    assert first.extract_my_subset(group, RESOURCES) == RESOURCES
    heard = []
    first.watch_group(group, lambda event: heard.append((type(event).__name__, event.member_id)))
    second.join_group(group)
    subsets = [agent.extract_my_subset(group, RESOURCES) for agent in agents]
    assert all(subsets)
    assert sorted(subsets[0] + subsets[1]) == sorted(RESOURCES)
    second.leave_group(group)
    assert first.extract_my_subset(group, RESOURCES) == RESOURCES
    second.join_group(group)
    first.run_watchers()
    second._coordinator.stop()
    first.run_watchers()
    assert heard == [("MemberJoinedGroup", second._my_id), ("MemberLeftGroup", second._my_id)]
    first.heartbeat()
    assert first.extract_my_subset(group, RESOURCES) == RESOURCES


def test_without_a_partition_actor_an_agent_owns_nothing_and_no_call_raises(hasty_tooz, monkeypatch, group):
    monkeypatch.setattr(cfg.CONF.coordination, "backend_url", hasty_tooz.url + "?call_timeout=0.5")
    agent = PartitionCoordinator("agent")
    agent.start()
    assert agent.extract_my_subset(group, RESOURCES) == RESOURCES
    hasty_tooz.deployment.shutdown()
    agent.heartbeat()
    assert agent.extract_my_subset(group, RESOURCES) == []
    hasty_tooz.deployment.deploy()
    wait_until(lambda: agent.heartbeat() or agent.extract_my_subset(group, RESOURCES) == RESOURCES)
    agent._coordinator.stop()
