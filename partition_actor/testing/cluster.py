"""A cluster in one process: the production state machines in a simulated world, with random faults."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from partition_actor.core.messages import lock_name, slot_name
from partition_actor.errors import InvalidSettings
from partition_actor.settings import Settings
from partition_actor.testing.checker import Checker
from partition_actor.testing.conditions import Conditions, draw, some_settings
from partition_actor.testing.fleets import SimulatedFleet, SimulatedFleetWorker, draw_fleet
from partition_actor.testing.partition_actors import Client, SimulatedPartitionActor
from partition_actor.testing.workers import BareCaller, ForkedChild, Watcher, Worker, space_of
from partition_actor.testing.world import NODES, Process, World

WATCHED = 0.3
"""Fraction of the seeds with a process that only watches the groups."""
PLANNED_ENDS = 0.3
"""Fraction of the seeds in which nodes drain."""
STAYS = 0.5
"""Fraction of the seeds in which nodes drain, in which some members are replaced then."""
SLOTS = 0.5
"""Fraction of the seeds in which members ask for slots."""
ROLLS = 4
"""How many times a fleet may need the time to settle: it replaces one worker after another."""
FLEETS = 0.2
"""Fraction of the seeds with a fleet."""
MAX_CLIENTS = 6
"""No fault starts a client while this many run."""
HEALTH_TIMEOUT = (0.1, 1.5)
"""Seconds, with a ttl of 1 s, from losing touch with a node until the GCS counts it dead."""

P = TypeVar("P", bound=Process)


class SimulatedCluster:
    """A partition actor, members and the network between them, all decided by `seed`.

    It takes steps, each the handling of one event. After each it checks that no key has two members that may work on
    it, that no epoch goes back, that fencing tokens grow, and that no lock or slot has two holders. Random faults
    happen until ``settle`` ends them; ``kill``, ``pause``, ``cut`` and their like bring one about.

    Args:
        seed: decides everything that is not given.
        settings: by default drawn from a set with a ttl of 1 s.
        conditions: how the network and users behave, and which faults happen; drawn by default.
        trace: keep the last events, for ``explain``.
        members: how many members to start; by default 2 to 4.
    """

    def __init__(
        self,
        seed: int,
        *,
        settings: Settings | None = None,
        conditions: Conditions | None = None,
        trace: bool = False,
        members: int | None = None,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.settings = settings or self.rng.choice(some_settings())
        self.conditions = replace(conditions or draw(self.rng, tuple(FAULTS)))
        if conditions is None and random.Random(f"planned ends of {seed}").random() < PLANNED_ENDS:
            self.conditions.faults |= PLANNED.keys()
            self.conditions.stays = random.Random(f"stays of {seed}").random() < STAYS
        if conditions is None and random.Random(f"slots of {seed}").random() < SLOTS:
            self.conditions.slots = True
        if conditions is None and random.Random(f"fleets of {seed}").random() < FLEETS:
            self.conditions.fleet = self.conditions.slots = True
            self.conditions.faults |= FLEET.keys()
            if settings is None:  # its workers, their successors and its router come on top
                self.settings = Settings.from_dict({**self.settings.to_dict(), "max_members": 20})
        self.world = World(seed, self.rng, self.settings, self.conditions, trace=trace)
        self.time = self.world.time
        """The clock of the simulated world; every process has its own, which follows it."""
        self.counts = self.world.counts
        """Faults and other incidents so far, by kind."""
        self.partition_actors: list[SimulatedPartitionActor] = []
        """All lives of the partition actor, oldest first."""
        self.workers: list[Worker] = []
        """All members ever started, dead ones too."""
        self.watchers: list[Watcher] = []
        self.callers: list[BareCaller] = []
        self.clients: list[Client] = []
        """Members, watchers and callers, in the order of their start."""
        self.dismissed: set[tuple[str, str]] = set()
        """``(member_id, group)`` of those whom an operator drained or forgot."""
        self._checker = Checker(self.world, self.clients)
        self.world.check = self._checker.check
        self.start_partition_actor()
        for number in range(members or self.rng.randint(2, 4)):
            self.start_worker(f"m{number}")
        if random.Random(f"watchers of {seed}").random() < WATCHED:  # does not change the dice of other seeds
            self.start_watcher("w0")
        self.fleet = self._start_fleet() if self.conditions.fleet else None
        """The workers that a controller keeps alive, if there are any."""
        if self.conditions.fault_rate:
            self._plan_fault()

    def _start_fleet(self) -> SimulatedFleet:
        def add(worker: SimulatedFleetWorker) -> None:
            self.workers.append(worker)
            self.clients.append(worker)

        fleet = draw_fleet(
            self.world,
            self.seed,
            actors=self.partition_actors,
            start_watcher=self.start_watcher,
            add_worker=add,
            kill=self.kill,
        )
        fleet.start_controller()
        fleet.act()
        return fleet

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return self.world.steps

    def run(self, steps: int) -> None:
        """Take so many steps. Raises ``Violation``."""
        end = self.steps + steps
        while self.steps < end:
            self.world.next_event()

    def run_for(self, seconds: float) -> None:
        """Take the steps of the next `seconds`. Raises ``Violation``."""
        self.world.run_until(self.time.now() + seconds)

    def settle(self) -> None:
        """End all faults, let `settling_time` pass, and check that the cluster has converged. Raises ``Violation``."""
        self.world.faults_over = True
        self.conditions.end_faults()
        self.world.cuts.clear()
        controllers = () if self.fleet is None else self.fleet.controllers
        for process in (*self.clients, *self.partition_actors, *controllers):
            self.wake(process)
        if self.fleet is not None and not self.fleet.controller.alive:
            self.fleet.start_controller()
        known = _actor(self)
        for process in (*self.callers, *self.partition_actors):
            process.alive = process is known
        latest = known or self.start_partition_actor()
        latest.cut_off = False
        for worker in (*self.workers, *self.watchers):
            worker.route = latest
        if self.world.draining:
            self.run_for(self.settling_time)
            self._checker.check_drained(self.world.draining)
            self.world.draining.clear()
            self.world.drains_end.clear()
        self.run_for(self.settling_time)
        if self.fleet is not None:
            for _ in range(ROLLS):
                if not self.fleet.controller.state.is_ready:
                    self.run_for(self.settling_time)
            self._checker.check_fleet(self.fleet)
        self._checker.check_converged(self.partition_actors[-1].membership.locks, self.dismissed)

    @property
    def settling_time(self) -> float:
        """Seconds after the last fault by which every key has an owner: three longest leases and two hand-offs."""
        latest = self.partition_actors[-1].membership
        lease = max(self.settings.max_ttl, latest.settings.max_ttl, *(life.recorded for life in self.partition_actors))
        return 3 * lease + 2 * max(self.settings.handoff_timeout, latest.settings.handoff_timeout) + 1.0

    def explain(self, what: str) -> str:
        """`what`, with the seed, the time, and the trace if one is kept."""
        return self.world.explain(what)

    def start_partition_actor(self, state: dict[str, Any] | None = None) -> SimulatedPartitionActor:
        """Start the first partition actor or the next; its clients find it after a while.

        `state`: what the one before has handed over.
        """
        restarted = bool(self.partition_actors) and self.rng.random() < 0.7
        actor = SimulatedPartitionActor(self.world, self.partition_actors, restarted=restarted, state=state)
        for client in self.clients:
            pace = 0.4 if self.conditions.slow_to_find else self.rng.choice((20.0, 4.0, 1.0))
            pace = 20.0 if self.world.faults_over else pace  # one that was ending then is replaced after that
            self.world.later(self.rng.expovariate(pace), None, _find_partition_actor, client, actor)
        return actor

    def start_worker(self, member_id: str, weight: int = 1) -> Worker:
        """Start a process that joins every group under `member_id`."""
        name = f"{member_id}#{len(self.workers)}"
        worker = Worker(self.world, name, member_id, self.partition_actors, weight)
        self.workers.append(worker)
        self.clients.append(worker)
        return worker

    def start_watcher(self, member_id: str) -> Watcher:
        """Start a process that watches every group and is a member of none."""
        watcher = Watcher(self.world, f"{member_id}#{len(self.workers)}", member_id, self.partition_actors)
        self.watchers.append(watcher)
        self.clients.append(watcher)
        return watcher

    def start_caller(self, member_id: str, session: str | None = None) -> BareCaller:
        """Start a process that calls `get_subset` by a bare handle, in any exclusive group; see ``BareCaller``."""
        name = f"{member_id}?{len(self.callers)}"
        caller = BareCaller(self.world, name, member_id, self.partition_actors[-1], session)
        self.callers.append(caller)
        self.clients.append(caller)
        return caller

    def kill(self, process: Process) -> None:
        """End a process. A death watch may report it; nobody replaces a partition actor (`start_partition_actor`)."""
        process.alive = False
        if isinstance(process, Worker) and process.has_death_watch:
            self.world.later(self.rng.uniform(0.004, 0.017), None, self.report_death, process, True)
        if isinstance(process, BareCaller) and self.rng.random() < 0.5:
            self.world.later(self.rng.uniform(0.004, 0.3), None, self.report_death_of_caller, process)

    def report_death(self, worker: Worker, certain: bool) -> None:
        """End the death watches of a worker; not `certain` when only the worker's node is lost."""
        for actor in self.partition_actors:
            for session in worker.transport.sessions:
                key = (worker.member_id, session.session)
                if actor.alive and key in actor.membership.sessions:
                    self.world.later(0.0, actor, actor.on_death, key, certain)

    def report_death_of_caller(self, caller: BareCaller) -> None:
        """End the death watch of a bare caller, whose actor may have its next process by now."""
        for actor in self.partition_actors:
            key = (caller.member_id, caller.session)
            self.world.later(0.0, actor, actor.on_caller_death, key, caller.name, caller.has_next)

    def pause(self, process: Process, seconds: float) -> None:
        """Stop a process, and let it go on after `seconds`."""
        process.paused = True
        self.world.later(seconds, None, self.wake, process)

    def wake(self, process: Process) -> None:
        """Let a paused process go on: check what it still holds, then handle its backlog. Raises ``Violation``."""
        if not process.paused or not process.alive:
            return
        process.paused = False
        self.world.log(process, "wakes")
        self._checker.check(process)
        backlog, process.backlog = process.backlog, []
        for handler, arguments in backlog:
            if process.paused:
                process.backlog.append((handler, arguments))
            else:
                self.world.handle(process, handler, arguments)

    def cut(self, process: Process, direction: str, seconds: float) -> None:
        """Lose every message that `process` sends (`direction` "out") or is sent ("in"), for `seconds`."""
        self.world.cuts.add((process, direction))
        self.world.later(seconds, None, self.world.cuts.discard, (process, direction))

    def _plan_fault(self) -> None:
        self.world.later(self.rng.expovariate(self.conditions.fault_rate), None, self._next_fault)

    def _next_fault(self) -> None:
        if self.world.faults_over:
            return
        faults = FAULTS | PLANNED | FLEET
        kinds = [kind for kind in faults if kind in self.conditions.faults]
        if kinds:
            kind = self.rng.choice(kinds)
            if faults[kind](self):
                self.counts[kind] += 1
                self.world.log(None, "fault:", kind)
        self._plan_fault()


def _find_partition_actor(client: Client, actor: SimulatedPartitionActor) -> None:
    if client.route.membership.incarnation < actor.membership.incarnation:
        client.route = actor


# -- random faults, and what users and operators do meanwhile -------------------------------------------------------

Fault = Callable[[SimulatedCluster], bool]
"""Returns False where there is nothing to do it to."""


def _to(
    pick: Callable[[SimulatedCluster], P | None],
    fault: Callable[[SimulatedCluster, P], bool | None],
    *,
    running: bool = False,
) -> Fault:
    """A fault that happens to the process that `pick` returns; with `running`, only if that is not paused."""

    def happen(cluster: SimulatedCluster) -> bool:
        target = pick(cluster)
        if target is None or (running and target.paused):
            return False
        return fault(cluster, target) is not False

    return happen


def _alive(cluster: SimulatedCluster, processes: Sequence[P]) -> P | None:
    alive = [process for process in processes if process.alive]
    return cluster.rng.choice(alive) if alive else None


def _worker(cluster: SimulatedCluster) -> Worker | None:
    return _alive(cluster, cluster.workers)


def _client(cluster: SimulatedCluster) -> Client | None:
    return _alive(cluster, cluster.clients)


def _any_actor(cluster: SimulatedCluster) -> SimulatedPartitionActor | None:
    return _alive(cluster, cluster.partition_actors)


def _actor(cluster: SimulatedCluster) -> SimulatedPartitionActor | None:
    """The partition actor that the GCS knows, if it runs."""
    last = cluster.partition_actors[-1]
    return last if last.alive and last.counted_alive else None


def _has_room(cluster: SimulatedCluster) -> bool:
    return sum(client.alive for client in cluster.clients) < MAX_CLIENTS


def _duration(cluster: SimulatedCluster) -> float:
    """Seconds: short, about a lease, or longer than the longest lease."""
    rng = cluster.rng
    lease = rng.choice((cluster.settings.ttl, cluster.settings.max_ttl))
    return lease * rng.choice((rng.uniform(0.0, 0.5), rng.uniform(0.8, 1.3), 2.5))


def _pause(cluster: SimulatedCluster, process: Process) -> None:
    cluster.world.log(process, "is paused")
    cluster.pause(process, _duration(cluster))


def _crash(cluster: SimulatedCluster, process: Process) -> None:
    cluster.world.log(process, "crashes")
    cluster.kill(process)


def _restart(cluster: SimulatedCluster, worker: Worker) -> None:
    cluster.kill(worker)
    cluster.world.log(worker, "crashes and comes back")
    cluster.world.later(cluster.rng.expovariate(4.0), None, cluster.start_worker, worker.member_id)


def _zombie(cluster: SimulatedCluster, worker: Worker) -> bool:
    if not _has_room(cluster):
        return False
    if cluster.rng.random() < 0.5:
        cluster.pause(worker, _duration(cluster))
    cluster.world.log(worker, "lives on beside its successor")
    cluster.start_worker(worker.member_id)
    return True


def _lose_node(cluster: SimulatedCluster, worker: Worker) -> None:
    """The GCS counts the node of a worker dead; the worker still runs, cut off or not."""
    cluster.world.log(worker, "is on a node that the GCS loses")
    cluster.report_death(worker, False)
    if cluster.rng.random() < 0.5:
        cluster.cut(worker, "out", _duration(cluster))


def _crash_actor(cluster: SimulatedCluster, actor: SimulatedPartitionActor) -> None:
    _crash(cluster, actor)
    actor.counted_alive = False
    delay = 0.01 if cluster.conditions.quick_gcs else cluster.rng.choice((0.01, cluster.rng.uniform(0.0, 2.0)))
    cluster.world.later(delay, None, _replace, cluster)


def _replace(cluster: SimulatedCluster) -> None:
    if not cluster.partition_actors[-1].counted_alive:
        cluster.start_partition_actor()


def _shut_down_actor(cluster: SimulatedCluster, actor: SimulatedPartitionActor) -> None:
    """Somebody calls `shutdown`, which may find one that is no longer the latest, and then `deploy`."""
    cluster.world.log(actor, "is shut down")
    actor.on_exit = partial(_redeploy, cluster)
    cluster.world.later(0.0, actor, actor.shut_down)


def _redeploy(cluster: SimulatedCluster) -> None:
    delay = 0.01 if cluster.world.faults_over else cluster.rng.choice((0.01, cluster.rng.uniform(0.0, 2.0)))
    cluster.world.later(delay, None, _replace, cluster)


def _replace_actor(cluster: SimulatedCluster, actor: SimulatedPartitionActor) -> None:
    """Somebody calls ``deploy(replace=True)``; what the partition actor hands over may get lost with the GCS."""

    def take_over(state: dict[str, Any]) -> None:
        cluster.world.log(actor, "has handed over")
        lost = actor.cut_off or cluster.rng.random() < 0.1
        delay = cluster.rng.choice((0.01, cluster.rng.uniform(0.0, 2.0)))
        cluster.world.later(delay, None, _take_over, cluster, actor, None if lost else state)
        cluster.world.later(cluster.rng.choice((0.0, delay, delay + 1.0)), None, cluster.kill, actor)

    actor.on_state = take_over
    cluster.world.later(0.0, actor, actor.hand_over)


def _take_over(cluster: SimulatedCluster, former: SimulatedPartitionActor, state: dict[str, Any] | None) -> None:
    latest = cluster.partition_actors[-1]
    if not latest.counted_alive:
        cluster.start_partition_actor(state if latest is former else None)


def _cut_off_actor(cluster: SimulatedCluster, actor: SimulatedPartitionActor) -> bool:
    """The GCS loses touch with the partition actor's node, and may start another while the first still runs."""
    if actor.cut_off:
        return False
    actor.cut_off = True
    cluster.world.log(actor, "is cut off from the GCS")
    if cluster.rng.random() < 0.3:
        cluster.pause(actor, _duration(cluster))
    timeout = 0.05 if cluster.conditions.quick_gcs else cluster.rng.uniform(*HEALTH_TIMEOUT)
    cluster.world.later(timeout, None, _time_out, cluster, actor)
    return True


def _time_out(cluster: SimulatedCluster, actor: SimulatedPartitionActor) -> None:
    if not actor.counted_alive or not actor.cut_off:
        return
    if cluster.rng.random() < 0.2:
        actor.cut_off = False
        return
    actor.counted_alive = False
    cluster.world.log(actor, "is counted dead by the GCS")
    delay = 0.02 if cluster.conditions.quick_gcs else cluster.rng.expovariate(4.0)
    cluster.world.later(delay, None, _replace, cluster)
    cluster.world.later(_duration(cluster) + 1.0, None, cluster.kill, actor)


def _cut(cluster: SimulatedCluster, process: Process) -> None:
    direction = cluster.rng.choice(("in", "out"))
    cluster.world.log(process, "is cut", direction)
    cluster.cut(process, direction, _duration(cluster))


def _join(cluster: SimulatedCluster) -> bool:
    room = _has_room(cluster)
    if room:
        cluster.start_worker(cluster.rng.choice(("m0", "m1", "m2", "m3", "m4")), cluster.rng.choice((1, 2)))
    return room


def _leave(cluster: SimulatedCluster, worker: Worker) -> None:
    worker.coordinator.leave_group(cluster.rng.choice(cluster.conditions.groups)[0])


def _rejoin(cluster: SimulatedCluster, worker: Worker) -> None:
    group, exclusive = cluster.rng.choice(cluster.conditions.groups)
    worker.join(group, cluster.rng.choice((1, 2)), exclusive)


def _stop(cluster: SimulatedCluster, worker: Worker) -> bool:
    """The user stops the member, and starts it again sooner or later."""
    if not worker.coordinator.is_active():
        return False
    worker.user.stop()
    return True


def _fork(cluster: SimulatedCluster, worker: Worker) -> bool:
    if not _has_room(cluster):
        return False
    cluster.clients.append(ForkedChild(worker))
    return True


def _change_weight(cluster: SimulatedCluster) -> bool:
    worker = _worker(cluster)
    group = cluster.rng.choice(cluster.conditions.groups)[0]
    if worker is None or worker.paused or worker.member_state.view(group) is None:
        return False
    worker.join(group, cluster.rng.choice((1, 2)))
    return True


def _dismiss(command: str, cluster: SimulatedCluster, client: Client) -> bool:
    actor = _actor(cluster)
    if actor is None or actor.paused:
        return False
    group = cluster.rng.choice(cluster.conditions.groups)[0]
    cluster.dismissed.add((client.member_id, group))
    cluster.world.later(0.0, actor, actor.command, command, group, client.member_id)
    return True


def _break_lock(cluster: SimulatedCluster, actor: SimulatedPartitionActor) -> bool:
    if cluster.conditions.locks:
        name = lock_name(f"lock{cluster.rng.randrange(cluster.conditions.locks)}")
        cluster.world.later(0.0, actor, actor.command, "break_lock", name)
    if cluster.conditions.slots:
        group = cluster.rng.choice(cluster.conditions.groups)[0]
        name = slot_name(space_of(cluster.world, group), cluster.rng.randrange(3))
        cluster.world.later(0.0, actor, actor.command, "break_lock", name)
    return cluster.conditions.locks > 0 or cluster.conditions.slots


def _configure(cluster: SimulatedCluster, actor: SimulatedPartitionActor) -> bool:
    """An operator changes the settings, the ttl too: of that nobody tells those who call by a bare handle."""
    other = cluster.rng.choice(some_settings())
    names = ("hold", "handoff_timeout", "publish_window", "node_proof_interval", "max_heartbeats_per_second")
    changes = {name: getattr(other, name) for name in names}
    changes["ttl"] = cluster.settings.ttl * cluster.rng.choice((0.6, 0.8, 1.0, 1.5))
    try:
        settings = actor.membership.settings.changed(changes)
    except InvalidSettings:
        return False
    cluster.world.later(0.0, actor, actor.configure, settings)
    return True


def _call(cluster: SimulatedCluster) -> bool:
    """A process begins to call by a bare handle: one of a new actor, or the next one of an actor that Ray restarts."""
    former = _alive(cluster, [caller for caller in cluster.callers if not caller.has_next])
    if not _has_room(cluster):
        return False
    if former is None or cluster.rng.random() < 0.5:
        cluster.start_caller(f"x{len(cluster.callers)}")
        return True
    former.has_next = True
    if cluster.rng.random() < 0.6:  # or it is on a node that the GCS has lost, and calls as before
        cluster.kill(former)
    cluster.world.log(former, "is succeeded by the next process of its actor")
    cluster.start_caller(former.member_id, None if former.session else "")
    return True


def _drain_node(cluster: SimulatedCluster) -> bool:
    """A node is to end. All may be draining at the same time."""
    world = cluster.world
    node = cluster.rng.choice(world.nodes)
    world.log(None, node, "drains")
    world.draining.add(node)
    if cluster.conditions.stays:
        seconds = cluster.rng.choice((None, cluster.rng.uniform(0.5, 8.0)))
        world.drains_end[node] = None if seconds is None else world.time.now() + seconds
        _replace_those_that_stay(cluster, node)
    return True


def _replace_those_that_stay(cluster: SimulatedCluster, node: str) -> None:
    """As a fleet does: another process takes the id of each, sooner or later."""
    for worker in [worker for worker in cluster.workers if worker.alive and worker.node == node]:
        if (
            worker.session_of.stays
            and not isinstance(worker, SimulatedFleetWorker)
            and _has_room(cluster)
            and cluster.rng.random() < 0.7
        ):
            cluster.world.later(cluster.rng.expovariate(1.0), None, cluster.start_worker, worker.member_id)


def _take_drain_back(cluster: SimulatedCluster) -> bool:
    draining = sorted(cluster.world.draining)
    if draining:
        cluster.world.draining.discard(cluster.rng.choice(draining))
    return bool(draining)


def _end_node(cluster: SimulatedCluster) -> bool:
    """A node that is draining ends, with all that run there, and another comes in its place."""
    world, draining = cluster.world, sorted(cluster.world.draining)
    if not draining:
        return False
    node = cluster.rng.choice(draining)
    world.log(None, node, "ends")
    world.draining.discard(node)
    world.ended.add(node)
    world.nodes[world.nodes.index(node)] = f"node-{NODES + len(world.ended)}"
    for client in cluster.clients:
        if client.node == node and client.alive:
            cluster.kill(client)
    return True


def _pause_controller(cluster: SimulatedCluster) -> bool:
    fleet = cluster.fleet
    if fleet is None or not fleet.controller.alive or fleet.controller.paused:
        return False
    _pause(cluster, fleet.controller)
    return True


PLANNED: dict[str, Fault] = {
    "node drains": _drain_node,
    "drain taken back": _take_drain_back,
    "draining node ends": _end_node,
}
"""What is no fault, and moves keys nevertheless. Apart, so that `draw` decides as it would without it."""

FLEET: dict[str, Fault] = {
    "fleet controller pause": _pause_controller,
}
"""What happens to a fleet. Apart for the same reason."""

FAULTS: dict[str, Fault] = {
    "pause": _to(_client, _pause, running=True),
    "crash": _to(_client, _crash),
    "restart": _to(_worker, _restart),
    "zombie": _to(_worker, _zombie),
    "node lost": _to(_worker, _lose_node),
    "partition actor crash": _to(_actor, _crash_actor),
    "partition actor cut off": _to(_actor, _cut_off_actor),
    "partition actor pause": _to(_actor, _pause, running=True),
    "cut": _to(_client, _cut),
    "partition actor cut": _to(_actor, _cut),
    "join": _join,
    "leave": _to(_worker, _leave, running=True),
    "join again": _to(_worker, _rejoin, running=True),
    "weight change": _change_weight,
    "stop": _to(_worker, _stop, running=True),
    "fork": _to(_worker, _fork, running=True),
    "drain": _to(_client, partial(_dismiss, "drain")),
    "forget": _to(_client, partial(_dismiss, "forget")),
    "bare caller": _call,
    "lock broken": _to(_actor, _break_lock, running=True),
    "settings change": _to(_actor, _configure, running=True),
    "partition actor replaced": _to(_actor, _replace_actor, running=True),
    "partition actor shutdown": _to(_any_actor, _shut_down_actor, running=True),
}
