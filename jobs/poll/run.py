"""One run: join Ray, deploy the partition actor, start agents, poll in cycles, kill some, report."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayActorError, RayTaskError

import partition_actor
from jobs.driver.cluster import deployed, joined
from jobs.driver.command_line import InputError
from jobs.poll.agent import Agent, Batch
from jobs.poll.config import PollConfig, Source
from jobs.poll.crew import AgentError, Crew, Member
from jobs.poll.display import Display
from jobs.poll.report import Kill, Outcome, Tallier
from jobs.poll.store import SAMPLES, Dataset, roster_of
from jobs.poll.targets import Lists
from partition_actor import Fleet, PartitionCoordinator
from partition_actor.errors import GroupNotFound, PartitionActorNotFound

# Seconds between checks of the agents' progress, in which the partition actor must answer, and the agents be ready.
_LOOK = 0.1
_ANSWER_LIMIT = 10.0
_START_LIMIT = 120.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(config: PollConfig, address: str, join: bool, directory: Path, display: Display) -> Outcome:
    """Poll until every source has had its cycles, or a signal ends the run.

    Args:
        config: the settings.
        address: of the Ray cluster to join; ``local`` starts one for this run, if it needs any.
        join: the group must have members of another run already; without, it must have none.
        directory: the run's, new and empty.
        display: shows the progress.

    Raises:
        InputError: no cluster can be joined at the address, or the group is not as ``join`` says.
        AgentError: the agents do not answer.
        PartitionError: the partition actor or the agents could not be started.
        OSError: the dataset cannot be written.
    """
    return asyncio.run(_run(config, address, join, directory, display))


async def _run(config: PollConfig, address: str, join: bool, directory: Path, display: Display) -> Outcome:
    signalled: list[str] = []
    ending = asyncio.Event()

    def end(number: signal.Signals) -> None:
        signal.alarm(0)  # Ray's own handler, if it is before this one, aborts the process after 3 seconds
        signalled.append(number.name)
        ending.set()

    def listen() -> None:
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, end, number)

    listen()
    async with _crew(config, address, join, directory.name, display.say) as crew:
        listen()  # Ray has put its own handler before this one
        outcome = await poll_until(ending, config, crew, Dataset(directory), display)
    if signalled and any(outcome.cycles[source.name] < config.cycles for source in config.polled):
        outcome.ended_by = signalled[0]
    return outcome


async def poll_until(
    ending: asyncio.Event, config: PollConfig, crew: Crew, dataset: Dataset, display: Display
) -> Outcome:
    """Poll until every source has had its cycles, or it is time to end.

    Raises:
        AgentError: the agents do not answer, or one fails.
        OSError: the dataset cannot be written.
    """
    outcome = Outcome()
    service = _Service(config, crew, dataset, display, outcome)
    sources = [asyncio.create_task(service.repeat(source)) for source in config.polled]
    told = asyncio.create_task(ending.wait())
    try:
        await _until_done(sources, told)
    finally:
        for task in (*sources, told):
            task.cancel()
        await asyncio.gather(*sources, told, return_exceptions=True)
        display.close()
    outcome.lost = crew.lost
    outcome.missing = dataset.missing()
    return outcome


async def _until_done(sources: list[asyncio.Task[None]], ending: asyncio.Task[Any]) -> None:
    """Wait until all sources have had their cycles, or it is time to end; raise what one of them raises."""
    pending: set[asyncio.Task[Any]] = {*sources, ending}
    while not ending.done() and pending != {ending}:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


@asynccontextmanager
async def _crew(
    config: PollConfig, address: str, join: bool, run: str, say: Callable[[str], None]
) -> AsyncIterator[Crew]:
    """Start the agents for a block. What blocks runs in threads, so that signals are heard, and Ray takes none."""
    prefix = f"{run}/"
    arguments = (config.group, config.fingerprint, config.timeout)
    if config.agents == 1 and address == "local" and not join:
        say("one agent polls, without Ray")
        with PartitionCoordinator(f"{prefix}0", actor=None) as coordinator:
            agent = Agent(coordinator, *arguments, node=socket.gethostname())
            yield Crew(prefix, agent, say)
            await agent.close()
        return
    stack = ExitStack()
    try:
        await asyncio.to_thread(stack.enter_context, joined(address))
        await asyncio.to_thread(_check_group, config, join)
        await asyncio.to_thread(stack.enter_context, deployed(config.name, config.namespace))
        say(f"starting {config.agents} agent{'s' if config.agents > 1 else ''} on each node")
        fleet = Fleet(
            config.group,
            Agent,
            per_node=config.agents,
            args=arguments,
            name=run,
            actor=config.name,
            namespace=config.namespace,
            ready_timeout=_START_LIMIT,
        )
        stack.callback(fleet.stop)
        await asyncio.to_thread(fleet.start)
        yield Crew(prefix, fleet, say)
    finally:
        await asyncio.to_thread(stack.close)


def _check_group(config: PollConfig, join: bool) -> None:
    members: list[str] = []
    polled: set[str] = set()
    with suppress(PartitionActorNotFound, GroupNotFound):
        actor = partition_actor.connect(name=config.name, namespace=config.namespace)
        members = ray.get(actor.get_members.remote(config.group), timeout=_ANSWER_LIMIT)
        for group in ray.get(actor.get_groups.remote(), timeout=_ANSWER_LIMIT):
            if group.startswith(f"{config.group}@"):
                metadata = ray.get(actor.get_metadata.remote(group), timeout=_ANSWER_LIMIT)
                polled |= {each.get("sources", "") for each in metadata.values() if isinstance(each, dict)}
    if join and not members:
        raise InputError(f"--join: group {config.group} has no agents yet; start a run without --join")
    if join and polled - {config.fingerprint}:
        raise InputError(f"--join: the agents in group {config.group} poll other sources; give both runs the same")
    if members and not join:
        raise InputError(f"--group {config.group}: it has {len(members)} members; --join adds agents to them")


class _Service:
    def __init__(self, config: PollConfig, crew: Crew, dataset: Dataset, display: Display, outcome: Outcome) -> None:
        self._config = config
        self._crew = crew
        self._dataset = dataset
        self._display = display
        self._outcome = outcome
        self._lists = Lists(config.listing, display.say)
        self._tallier = Tallier()
        self._numbers = {source.name: 0 for source in config.polled}  # source -> its cycle

    async def repeat(self, source: Source) -> None:
        """Poll a source in its cycles."""
        interval, began, tick = self._config.interval_of(source), time.monotonic(), 0
        while not self._config.cycles or self._numbers[source.name] < self._config.cycles:
            await asyncio.sleep(max(0.0, began + tick * interval - time.monotonic()))
            self._numbers[source.name] += 1
            await self._cycle(source, self._numbers[source.name])
            tick, skipped = next_tick(tick, interval, time.monotonic() - began)
            if skipped:
                self._display.say(f"{source.name}: a cycle took longer than its interval; {skipped} skipped")

    async def _cycle(self, source: Source, number: int) -> None:
        listed = await self._lists.read(source.discovered)
        members, before = await self._crew.share(source, listed)
        self._display.begin(source.name, number, len(before), members.values())
        cycle = _Cycle(source, number, self._config.spread_of(source), self._crew, self._display)
        roster = None
        try:
            await self._poll(cycle, members, list(before))
            after = await self._crew.survey(source, listed, members.values())
            owns = self._crew.owns
            roster = roster_of(
                source.name,
                number,
                (
                    (each, each in after and each not in cycle.silent, owns(owner) and owns(after.get(each)))
                    for each, owner in before.items()
                ),
            )
        finally:
            samples = pa.concat_tables([SAMPLES.empty_table(), *cycle.samples])
            self._dataset.write(source.name, number, samples, roster)
        tally = self._tallier.tally(source.name, number, samples, roster)
        self._outcome.add(tally)
        self._display.end(tally)

    async def _poll(self, cycle: _Cycle, members: Mapping[str, Member], resources: list[str]) -> None:
        first = cycle.source.name == self._config.polled[0].name
        kills = self._config.kill if first and cycle.number == self._config.kill_cycle else 0
        victims = list(members.values())[:kills]
        polling = {asyncio.create_task(cycle.collect(member)): member for member in members.values()}
        pending, until = set(polling), time.monotonic() + self._config.limit
        try:
            while pending and time.monotonic() < until:
                done, pending = await asyncio.wait(pending, timeout=_LOOK)
                for task in done:
                    task.result()
                if victims and all(map(cycle.is_half_way, victims)):
                    await self._kill(cycle, victims, resources)
                    victims = []
            for task in pending:
                member = polling[task]
                self._crew.lose(member.name, f"has not ended its cycle within {self._config.limit:g} s", member.agent)
        finally:
            for task in polling:
                task.cancel()

    async def _kill(self, cycle: _Cycle, victims: list[Member], resources: list[str]) -> None:
        for name, number in self._numbers.items():
            self._outcome.excused |= {(name, number), (name, number + 1)}
        for victim in victims:
            self._display.say(f"{victim.name} (pid {victim.view.pid}) gets SIGKILL in cycle {cycle.number}")
        covered = await self._crew.kill(victims, resources)
        self._outcome.kills += [Kill(victim.name, cycle.number, covered) for victim in victims]


class _Cycle:
    """A cycle of a source, and what its agents have sent so far."""

    def __init__(self, source: Source, number: int, spread: float, crew: Crew, display: Display) -> None:
        self.source = source
        self.number = number
        self.samples: list[pa.Table] = []
        self.silent: set[str] = set()
        self._arguments = (source, number, spread)
        self._batches: dict[str, Batch] = {}  # the last ones, by agent
        self._crew = crew
        self._display = display

    async def collect(self, member: Member) -> None:
        """Let an agent poll its share, and take its samples."""
        try:
            async for batch in member.agent.poll(*self._arguments):
                self._batches[member.name] = batch
                self.samples.append(batch.samples)
                self.silent.update(batch.silent)
                self._display.advance(self.source.name, {name: each.done for name, each in self._batches.items()})
        except RayActorError:
            self._crew.lose(member.name, "died", member.agent)
        except RayTaskError as error:
            raise AgentError(f"{member.name} failed in cycle {self.number}: {error.cause!r}") from None

    def is_half_way(self, member: Member) -> bool:
        """Return whether an agent has polled half of its resources."""
        batch = self._batches.get(member.name)
        return batch is not None and batch.done * 2 >= batch.total


def next_tick(tick: int, interval: float, elapsed: float) -> tuple[int, int]:
    """Return the tick at which the next cycle is due, and how many are left out because the last cycle took too long.

    Ticks are ``interval`` seconds apart, from the first cycle's start, however long cycles take.
    """
    due = max(tick + 1, math.floor(elapsed / interval)) if interval else tick + 1
    return due, due - tick - 1
