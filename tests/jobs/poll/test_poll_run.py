"""Cycles, with agents in this process: who polls what, and what becomes of the others when one fails."""

import asyncio
import shutil
from collections import defaultdict

import pytest
from agents import GROUP, Fleet, Groups, measured
from ray.exceptions import RayTaskError

from jobs.driver.machine import GoneError
from jobs.poll import agent as agent_room
from jobs.poll import crew as crew_room
from jobs.poll import pollers as pollers_room
from jobs.poll import run as run_room
from jobs.poll.config import PollConfig
from jobs.poll.crew import AgentError, Crew
from jobs.poll.display import Display
from jobs.poll.run import next_tick, poll_until
from jobs.poll.store import SAMPLES, Dataset, read
from partition_actor.errors import NotStarted

TARGETS = [f"tcp:host:{port}" for port in range(1, 41)]
LOCAL = ["cpu:0", "cpu:1", "net:eth0"]


class Run:
    """A run of ``poll_until``, in one event loop with the test."""

    def __init__(self, directory):
        self.directory = directory
        self.said = []
        self.done = []
        self.outcome = None
        self.ending = asyncio.Event()

    async def poll(self, fleet, **settings):
        sources = settings.pop("sources", None) or [{"name": "all", "resources": ["host:1"], "discovery": ["local"]}]
        config = PollConfig(**{"interval": 0.0, "spread": 0.0, "sources": sources, **settings})
        self.directory.mkdir(exist_ok=True)
        crew = Crew(f"{fleet.run}/", fleet, self.said.append)
        display = Display(config.cycles)
        display.say, display.advance = self.said.append, lambda _, done: self.done.append(sum(done.values()))
        self.outcome = await poll_until(self.ending, config, crew, Dataset(self.directory), display)
        return self.outcome

    def agents(self):
        """(source, cycle) -> resource -> the agents that have samples of it."""
        found = defaultdict(lambda: defaultdict(list))
        for row in read(self.directory, "samples", SAMPLES).to_pylist():
            found[row["source"], row["cycle"]][row["resource_id"]].append(row["agent"])
        return found


@pytest.fixture
def hooks():
    """Called with the resource before a poll gives its result."""
    return []


@pytest.fixture(autouse=True)
def world(monkeypatch, hooks):
    async def poll(resource, client, timeout):
        for hook in hooks:
            await hook(resource)
        return measured(resource)

    monkeypatch.setattr(agent_room, "poll", poll)
    monkeypatch.setattr(agent_room, "discover", lambda kinds: LOCAL if kinds else [])
    monkeypatch.setattr(agent_room, "METERS", {kind: [f"{kind}.up"] for kind in ("tcp", "cpu", "net")})
    monkeypatch.setattr(crew_room.ray, "kill", lambda process: process.kill())


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


SOURCE = {"name": "all", "resources": [each.removeprefix("tcp:") for each in TARGETS], "discovery": ["local"]}


def on_first_poll(action):
    """A hook that does something once, when the first remote resource is polled."""
    done = []

    async def hook(resource):
        if not done and resource.startswith("tcp:"):
            done.append(True)
            await action()

    return hook


def test_each_node_polls_its_own_and_each_remote_target_has_one_agent_of_all(run):
    async def body():
        fleet = Fleet(Groups(), "r", ["n1", "n1", "n2", "n3"])
        return fleet, await run.poll(fleet, cycles=2, sources=[SOURCE])

    _, outcome = asyncio.run(body())
    assert outcome.good
    assert outcome.cycles == {"all": 2}
    for agents in run.agents().values():
        assert agents.keys() == {*TARGETS, *(f"{each}@n{n}" for each in LOCAL for n in (1, 2, 3))}
        assert all(len(of) == 1 for of in agents.values())
        assert {agent for each in LOCAL for agent in agents[f"{each}@n1"]} <= {"agent-0", "agent-1"}
        assert {agent for each in LOCAL for agent in agents[f"{each}@n3"]} == {"agent-3"}
        assert len({agent for each in TARGETS for agent in agents[each]}) == 4


def test_sources_have_their_own_cycles_meters_and_owners_names(run, tmp_path):
    (tmp_path / "list").write_text("host:7\n")
    sources = [
        {"name": "listed", "meters": ["tcp.*"], "discovery": [f"file:{tmp_path / 'list'}", "local"], "project_id": "p"},
        {"name": "local", "interval": 0.01, "meters": ["!net.*"], "user_id": "u"},
    ]

    async def body():
        await run.poll(Fleet(Groups(), "r", ["n", "n"]), cycles=3, sources=sources)

    asyncio.run(body())
    agents = run.agents()
    assert run.outcome.cycles == {"listed": 3, "local": 3}
    assert run.outcome.resources == {"listed": 1, "local": 2}
    assert agents["listed", 3].keys() == {"tcp:host:7"}
    assert agents["local", 3].keys() == {"cpu:0@n", "cpu:1@n"}
    rows = read(run.directory, "samples", SAMPLES).to_pylist()
    assert {(row["source"], row["project_id"], row["user_id"]) for row in rows} == {
        ("listed", "p", None),
        ("local", None, "u"),
    }
    assert {row["meter"] for row in rows} == {"tcp.up", "cpu.up"}
    assert rows[0]["resource_metadata"] == [("of", rows[0]["resource_id"].removesuffix("@n"))]
    assert len({row["id"] for row in rows}) == len(rows)


def test_a_cycle_waits_until_all_agents_hold_one_epoch(run):
    async def body():
        fleet = Fleet(Groups(), "r", ["n", "n", "m"])
        fleet.processes[1].coordinator.late = 40
        await run.poll(fleet, cycles=1, sources=[SOURCE])

    asyncio.run(body())
    assert run.outcome.good
    assert len({row["epoch"] for row in read(run.directory, "samples", SAMPLES).to_pylist()}) == 3  # g, g@n and g@m
    (agents,) = run.agents().values()
    assert len(agents) == len(TARGETS) + 2 * len(LOCAL)


def test_a_share_is_taken_from_one_view(run):
    async def body():
        fleet = Fleet(Groups(), "r", ["n"])
        coordinator, groups = fleet.processes[0].coordinator, fleet.groups

        async def another_joins_meanwhile(group, keys):
            mine = coordinator.extract_my_subset(group, keys)
            if "other/0" not in groups.members[GROUP]:
                groups.change(GROUP, "other/0", joins=True)
            return mine

        coordinator.aextract_my_subset = another_joins_meanwhile
        await run.poll(fleet, cycles=1, sources=[SOURCE])
        return {each for each in TARGETS if groups.owner(GROUP, each) == "r/0"}

    mine = asyncio.run(body())
    assert {each for each in run.agents()["all", 1] if each in TARGETS} == mine != set(TARGETS)


def test_what_vanishes_in_a_cycle_or_has_none_of_the_meters_is_no_gap(run, hooks, monkeypatch):
    here = ["cpu:0", "cpu:1", "net:eth0"]
    monkeypatch.setattr(agent_room, "discover", lambda kinds: list(here))
    monkeypatch.setitem(agent_room.METERS, "net", ["net.up", "net.down"])

    async def vanish(resource):
        if resource == "cpu:1":
            here.remove(resource)
            raise GoneError(resource)

    hooks.append(vanish)
    source = {"name": "all", "meters": ["cpu.*", "net.down"], "discovery": ["local"]}
    monkeypatch.setitem(pollers_room.METERS, "net", ["net.up", "net.down"])

    async def body():
        await run.poll(Fleet(Groups(), "r", ["n"]), cycles=1, sources=[source])

    asyncio.run(body())
    assert run.outcome.good
    assert run.outcome.resources == {"all": 3}
    assert run.agents()["all", 1].keys() == {"cpu:0@n"}


def test_an_agent_that_dies_in_a_cycle_leaves_a_gap_there_and_the_others_go_on(run, hooks):
    async def body():
        fleet = Fleet(Groups(), "r", ["n", "n"])

        async def die():
            fleet.processes[0].kill()

        hooks.append(on_first_poll(die))
        await run.poll(fleet, cycles=2, sources=[SOURCE])

    asyncio.run(body())
    assert (run.outcome.lost, run.outcome.good) == (["agent-0"], False)
    assert [(tally.cycle, bool(tally.gaps)) for tally in run.outcome.recent] == [(1, True), (2, False)]
    assert run.outcome.recent[1].polls.keys() == {"agent-1"}
    assert run.said[0] == "agent-0 died"


def test_one_that_dies_between_cycles_is_lost_without_a_gap_and_its_replacement_is_told(run):
    async def body():
        fleet = Fleet(Groups(), "r", ["n", "n"])
        polling = asyncio.create_task(run.poll(fleet, cycles=0, interval=0.01, sources=[SOURCE]))
        while not any(run.directory.glob("samples/*")):
            await asyncio.sleep(0.01)
        old = fleet.processes[1]
        fleet.begin(1, "n")
        old.end.set()
        while not any("is replaced" in line for line in run.said):
            await asyncio.sleep(0.01)
        run.ending.set()
        await polling
        return old.pid, fleet.processes[1].pid

    old, new = asyncio.run(body())
    assert f"agent-1 is replaced: pid {old} is dead, pid {new} has its place" in run.said
    assert run.outcome.lost == ["agent-1"]


def test_one_that_hangs_in_a_cycle_is_ended_after_the_limit(run, hooks):
    async def body():
        fleet = Fleet(Groups(), "r", ["n", "n"])

        async def hang():
            fleet.processes[0].hangs = True

        hooks.append(on_first_poll(hang))
        await run.poll(fleet, cycles=2, limit=0.5, sources=[SOURCE])
        return fleet

    fleet = asyncio.run(body())
    assert fleet.processes[0].end.is_set()
    assert run.outcome.lost == ["agent-0"]
    assert [bool(tally.gaps) for tally in run.outcome.recent] == [True, False]
    assert run.said[0] == "agent-0 has not ended its cycle within 0.5 s"


def test_one_that_hangs_between_cycles_is_ended_and_the_others_go_on(run, monkeypatch):
    monkeypatch.setattr(crew_room, "_AGREE_LIMIT", 0.0)
    monkeypatch.setattr(crew_room.ask, "__kwdefaults__", {"limit": 0.3})

    async def body():
        fleet = Fleet(Groups(), "r", ["n", "n"])
        fleet.processes[0].hangs = True
        await run.poll(fleet, cycles=2, sources=[SOURCE])

    asyncio.run(body())
    assert run.said[0] == "agent-0 does not answer"
    assert run.outcome.recent[1].gaps == []
    assert run.outcome.lost == ["agent-0"]


def test_one_that_is_being_drained_does_not_end_the_run_and_a_mistake_in_one_does(run):
    async def body(error, run):
        fleet = Fleet(Groups(), "r", ["n", "n"])
        errors = [RayTaskError("share", "", error)]
        share = fleet.processes[1].agent.share

        async def failing(*arguments):
            if errors:
                raise errors.pop()
            return await share(*arguments)

        fleet.processes[1].agent.share = failing
        await run.poll(fleet, cycles=1, sources=[SOURCE])

    asyncio.run(body(NotStarted("it is over"), run))
    assert run.outcome.good
    again = Run(run.directory.parent / "again")
    with pytest.raises(AgentError, match=r"agent-1 failed: ValueError\('a mistake'\)"):
        asyncio.run(body(ValueError("a mistake"), again))


def test_without_any_agent_that_answers_the_run_fails(run, monkeypatch):
    monkeypatch.setattr(crew_room, "_AGREE_LIMIT", 0.0)

    async def body():
        fleet = Fleet(Groups(), "r", ["n"])
        fleet.processes[0].kill()
        await run.poll(fleet, cycles=1)

    with pytest.raises(AgentError, match="no agent answers within"):
        asyncio.run(body())


def test_killed_agents_are_excused_in_two_cycles_and_survivors_cover_everything(run):
    async def body():
        fleet = Fleet(Groups(), "r", ["n", "n", "m"])
        await run.poll(fleet, cycles=4, kill=1, agents=2, spread=0.4, limit=9.0, sources=[SOURCE])

    asyncio.run(body())
    (kill,) = run.outcome.kills
    assert (kill.agent, kill.cycle) == ("agent-0", 2)
    assert kill.covered_after is not None
    assert run.outcome.excused == {("all", 2), ("all", 3)}
    assert run.outcome.lost == []
    assert run.outcome.good
    assert run.outcome.recent[1].gaps
    assert run.outcome.recent[2].polls.keys() == {"agent-1", "agent-2"}


def test_two_runs_in_one_group_share_and_neither_takes_the_others_keys_for_gaps(run, tmp_path):
    other = Run(tmp_path / "other")

    async def body():
        groups = Groups()
        fleets = Fleet(groups, "r", ["n", "m"]), Fleet(groups, "other", ["n", "k"])
        both = zip((run, other), fleets, strict=True)
        await asyncio.gather(*(each.poll(fleet, cycles=2, sources=[SOURCE]) for each, fleet in both))

    asyncio.run(body())
    for each in (run, other):
        assert each.outcome.good
        assert each.outcome.samples < len(TARGETS) * 2
    polled = [set(each.agents()["all", 1]) for each in (run, other)]
    assert polled[0] & polled[1] == set()
    assert polled[0] | polled[1] >= set(TARGETS)


def test_when_the_dataset_is_removed_half_way_the_run_fails(run, hooks):
    async def remove():
        shutil.rmtree(run.directory)

    hooks.append(on_first_poll(remove))

    async def body():
        await run.poll(Fleet(Groups(), "r", ["n"]), cycles=2)

    with pytest.raises(FileNotFoundError):
        asyncio.run(body())


def test_a_cycle_that_is_cut_short_keeps_its_samples_and_is_not_judged(run, hooks):
    async def body():
        async def last(resource):
            if resource == "net:eth0":
                while len(TARGETS) + 2 not in run.done:
                    await asyncio.sleep(0.01)
                run.ending.set()
                await asyncio.Event().wait()

        hooks.append(last)
        await run.poll(Fleet(Groups(), "r", ["n"]), cycles=0, sources=[SOURCE])

    asyncio.run(body())
    assert run.outcome.cycles == {}
    assert run.outcome.good
    assert len(run.agents()["all", 1]) == len(TARGETS) + 2


def test_one_agent_needs_no_ray(run, monkeypatch):
    monkeypatch.setattr(run_room, "joined", lambda address: pytest.fail("Ray was asked"))
    seen = []

    class Shown(Display):
        def begin(self, source, cycle, resources, members):
            seen.extend(member.name for member in members)

        advance = end = say = lambda *_: None

    run.directory.mkdir()
    config = PollConfig(agents=1, cycles=2, interval=0.0, spread=0.0)
    outcome = run_room.run(config, "local", False, run.directory, Shown(2))
    assert outcome.good
    assert seen == ["agent-0", "agent-0"]
    assert outcome.polls == {"agent-0": 2 * len(LOCAL)}


@pytest.mark.parametrize(
    ("tick", "interval", "elapsed", "due"),
    [
        (0, 2.0, 0.5, (1, 0)),
        (0, 2.0, 2.0, (1, 0)),
        (0, 2.0, 2.5, (1, 0)),  # at once, and the one after it at 4.0
        (1, 2.0, 2.9, (2, 0)),
        (0, 2.0, 5.0, (2, 1)),
        (0, 2.0, 21.0, (10, 9)),
        (7, 0.0, 99.0, (8, 0)),
    ],
)
def test_cycles_are_due_at_multiples_of_the_interval_since_the_start(tick, interval, elapsed, due):
    assert next_tick(tick, interval, elapsed) == due


def test_what_a_slow_cycle_leaves_out_is_told(run, hooks):
    async def slow(resource):
        await asyncio.sleep(0.3)

    async def body():
        await run.poll(Fleet(Groups(), "r", ["n"]), cycles=2, interval=0.05)

    hooks.append(slow)
    asyncio.run(body())
    assert any("all: a cycle took longer than its interval; " in line for line in run.said)
