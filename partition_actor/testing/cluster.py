"""A cluster in one process: the production state machines in a simulated world, with random faults."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from partition_actor.settings import Settings
from partition_actor.testing.checker import Checker
from partition_actor.testing.clock import FakeClock
from partition_actor.testing.conditions import Conditions, draw, some_settings
from partition_actor.testing.partition_actors import Client, SimulatedPartitionActor
from partition_actor.testing.workers import BareCaller, Watcher, Worker
from partition_actor.testing.world import Process, World

WATCHED = 0.3
"""Fraction of the seeds with a process that only watches the groups."""
MAX_CLIENTS = 6
"""No fault starts a client while this many run."""
HEALTH_TIMEOUT = (0.1, 1.5)
"""Seconds, with a ttl of 1 s, from losing touch with a node until the GCS counts it dead."""


class SimulatedCluster:
    """A partition actor, members and the network between them, all decided by `seed`.

    It takes steps, each the handling of one event. After each it checks that no key has two members that may work on
    it, that no epoch goes back, that fencing tokens grow, and that no lock has two holders. Random faults happen until
    ``settle`` ends them; ``kill``, ``pause``, ``cut`` and their like bring one about.

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
        rng = random.Random(seed)
        self.settings = settings or rng.choice(some_settings())
        self.conditions = replace(conditions or draw(rng, tuple(FAULTS)))
        self.world = World(seed, rng, self.settings, self.conditions, trace=trace)
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
        self.start_partition_actor(first=True)
        for number in range(members or rng.randint(2, 4)):
            self.start_worker(f"m{number}")
        if random.Random(f"watchers of {seed}").random() < WATCHED:  # does not change the dice of other seeds
            self.start_watcher("w0")
        if self.conditions.fault_rate:
            self._plan_fault()

    @property
    def time(self) -> FakeClock:
        """The clock of the simulated world; every process has its own, which follows it."""
        return self.world.time

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return self.world.steps

    @property
    def counts(self) -> Counter[str]:
        """Faults and other incidents so far, by kind."""
        return self.world.counts

    # -- time ---------------------------------------------------------------------------------------------------

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
        self._end_faults()
        self.run_for(self.settling_time)
        self._checker.check_converged(self.partition_actors[-1].membership.locks, self.dismissed)

    @property
    def settling_time(self) -> float:
        """Seconds after the last fault by which every key has an owner: three longest leases and two hand-offs."""
        return 3 * self.settings.max_ttl + 2 * self.settings.handoff_timeout + 1.0

    def explain(self, what: str) -> str:
        """`what`, with the seed, the time, and the trace if one is kept."""
        return self.world.explain(what)

    # -- processes ----------------------------------------------------------------------------------------------

    def start_partition_actor(self, *, first: bool = False) -> SimulatedPartitionActor:
        """Start the first partition actor or the next; its clients find it after a while."""
        rng = self.world.rng
        restarted = not first and rng.random() < 0.7
        actor = SimulatedPartitionActor(self.world, self.partition_actors, first=first, restarted=restarted)
        for client in self.clients:
            pace = rng.choice((20.0, 4.0, 1.0))
            self.world.later(rng.expovariate(pace), None, _find_partition_actor, client, actor)
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

    def start_caller(self, member_id: str) -> BareCaller:
        """Start a process that calls `get_subset` by a bare handle, in any exclusive group."""
        caller = BareCaller(self.world, f"{member_id}?{len(self.callers)}", member_id, self.partition_actors[-1])
        self.callers.append(caller)
        self.clients.append(caller)
        return caller

    def kill(self, process: Process) -> None:
        """End a process. A death watch may report it; nobody replaces a partition actor (`start_partition_actor`)."""
        process.alive = False
        if isinstance(process, Worker) and process.watched:
            self.world.later(self.world.rng.uniform(0.004, 0.017), None, self.report_death, process, True)

    def report_death(self, worker: Worker, certain: bool) -> None:
        """End the death watches of a worker; not `certain` when only the worker's node is lost."""
        for actor in self.partition_actors:
            key = (worker.member_id, worker.session)
            if actor.alive and key in actor.membership.sessions:
                self.world.later(0.0, actor, actor.on_death, key, certain)

    def pause(self, process: Process, seconds: float) -> None:
        """Stop a process, and let it go on after `seconds`."""
        self.world.pause(process, seconds)

    def wake(self, process: Process) -> None:
        """Let a paused process go on. Raises ``Violation``."""
        self.world.wake(process)

    def cut(self, process: Process, direction: str, seconds: float) -> None:
        """Lose every message that `process` sends (`direction` "out") or is sent ("in"), for `seconds`."""
        self.world.cut(process, direction, seconds)

    # -- faults -------------------------------------------------------------------------------------------------

    def _plan_fault(self) -> None:
        self.world.later(self.world.rng.expovariate(self.conditions.fault_rate), None, self._next_fault)

    def _next_fault(self) -> None:
        if self.world.faults_over:
            return
        kinds = [kind for kind in FAULTS if kind in self.conditions.faults]
        if kinds:
            kind = self.world.rng.choice(kinds)
            if FAULTS[kind](self):
                self.counts[kind] += 1
                self.world.log(None, "fault:", kind)
        self._plan_fault()

    def _end_faults(self) -> None:
        self.world.faults_over = True
        self.conditions.end_faults()
        self.world.cuts.clear()
        for process in (*self.clients, *self.partition_actors):
            self.wake(process)
        for caller in self.callers:
            caller.alive = False
        for actor in self.partition_actors[:-1]:
            actor.alive = False
        last = self.partition_actors[-1]
        if last.alive and last.counted_alive:
            last.cut_off = False
        else:
            last.alive = False
            last = self.start_partition_actor()
        for worker in (*self.workers, *self.watchers):
            worker.route = last


def _find_partition_actor(client: Client, actor: SimulatedPartitionActor) -> None:
    if client.route.membership.incarnation < actor.membership.incarnation:
        client.route = actor


# -- random faults, and what users and operators do meanwhile -------------------------------------------------------


def _duration(cluster: SimulatedCluster) -> float:
    """Seconds: short, about a lease, or longer than the longest lease."""
    rng = cluster.world.rng
    lease = rng.choice((cluster.settings.ttl, cluster.settings.max_ttl))
    return lease * rng.choice((rng.uniform(0.0, 0.5), rng.uniform(0.8, 1.3), 2.5))


def _some_worker(cluster: SimulatedCluster) -> Worker | None:
    running = [worker for worker in cluster.workers if worker.alive]
    return cluster.world.rng.choice(running) if running else None


def _some_client(cluster: SimulatedCluster) -> Client | None:
    running = [client for client in cluster.clients if client.alive]
    return cluster.world.rng.choice(running) if running else None


def _current(cluster: SimulatedCluster) -> SimulatedPartitionActor | None:
    """The partition actor that the GCS knows, if it runs."""
    last = cluster.partition_actors[-1]
    return last if last.alive and last.counted_alive else None


def _running(cluster: SimulatedCluster) -> int:
    return sum(client.alive for client in cluster.clients)


# -- processes ------------------------------------------------------------------------------------------------------


def _pause(cluster: SimulatedCluster) -> bool:
    client = _some_client(cluster)
    if client is None or client.paused:
        return False
    cluster.world.log(client, "is paused")
    cluster.pause(client, _duration(cluster))
    return True


def _crash(cluster: SimulatedCluster) -> bool:
    client = _some_client(cluster)
    if client is None:
        return False
    cluster.world.log(client, "crashes")
    cluster.kill(client)
    return True


def _restart(cluster: SimulatedCluster) -> bool:
    worker = _some_worker(cluster)
    if worker is None:
        return False
    cluster.kill(worker)
    cluster.world.log(worker, "crashes and comes back")
    cluster.world.later(cluster.world.rng.expovariate(4.0), None, cluster.start_worker, worker.member_id)
    return True


def _zombie(cluster: SimulatedCluster) -> bool:
    worker = _some_worker(cluster)
    if worker is None or _running(cluster) >= MAX_CLIENTS:
        return False
    if cluster.world.rng.random() < 0.5:
        cluster.pause(worker, _duration(cluster))
    cluster.world.log(worker, "lives on beside its successor")
    cluster.start_worker(worker.member_id)
    return True


def _lose_node(cluster: SimulatedCluster) -> bool:
    """The GCS counts the node of a worker dead; the worker still runs, cut off or not."""
    worker = _some_worker(cluster)
    if worker is None:
        return False
    cluster.world.log(worker, "is on a node that the GCS loses")
    cluster.report_death(worker, False)
    if cluster.world.rng.random() < 0.5:
        cluster.cut(worker, "out", _duration(cluster))
    return True


# -- the partition actor --------------------------------------------------------------------------------------------


def _crash_partition_actor(cluster: SimulatedCluster) -> bool:
    actor = _current(cluster)
    if actor is None:
        return False
    cluster.world.log(actor, "crashes")
    cluster.kill(actor)
    actor.counted_alive = False
    delay = (
        0.01 if cluster.conditions.quick_gcs else cluster.world.rng.choice((0.01, cluster.world.rng.uniform(0.0, 2.0)))
    )
    cluster.world.later(delay, None, _replace, cluster)
    return True


def _replace(cluster: SimulatedCluster) -> None:
    if not cluster.partition_actors[-1].counted_alive:
        cluster.start_partition_actor()


def _cut_off_partition_actor(cluster: SimulatedCluster) -> bool:
    """The GCS loses touch with the partition actor's node, and may start another while the first still runs."""
    actor = _current(cluster)
    if actor is None or actor.cut_off:
        return False
    actor.cut_off = True
    cluster.world.log(actor, "is cut off from the GCS")
    if cluster.world.rng.random() < 0.3:
        cluster.pause(actor, _duration(cluster))
    timeout = 0.05 if cluster.conditions.quick_gcs else cluster.world.rng.uniform(*HEALTH_TIMEOUT)
    cluster.world.later(timeout, None, _judge, cluster, actor)
    return True


def _judge(cluster: SimulatedCluster, actor: SimulatedPartitionActor) -> None:
    if not actor.counted_alive or not actor.cut_off:
        return
    if cluster.world.rng.random() < 0.2:
        actor.cut_off = False
        return
    actor.counted_alive = False
    cluster.world.log(actor, "is counted dead by the GCS")
    delay = 0.02 if cluster.conditions.quick_gcs else cluster.world.rng.expovariate(4.0)
    cluster.world.later(delay, None, _replace, cluster)
    cluster.world.later(_duration(cluster) + 1.0, None, cluster.kill, actor)


def _pause_partition_actor(cluster: SimulatedCluster) -> bool:
    actor = _current(cluster)
    if actor is None or actor.paused:
        return False
    cluster.world.log(actor, "is paused")
    cluster.pause(actor, _duration(cluster))
    return True


# -- the network ----------------------------------------------------------------------------------------------------


def _cut(cluster: SimulatedCluster) -> bool:
    client = _some_client(cluster)
    if client is None:
        return False
    direction = cluster.world.rng.choice(("in", "out"))
    cluster.world.log(client, "is cut", direction)
    cluster.cut(client, direction, _duration(cluster))
    return True


def _cut_partition_actor(cluster: SimulatedCluster) -> bool:
    actor = _current(cluster)
    if actor is None:
        return False
    cluster.cut(actor, cluster.world.rng.choice(("in", "out")), _duration(cluster))
    return True


# -- users and operators --------------------------------------------------------------------------------------------


def _join(cluster: SimulatedCluster) -> bool:
    if _running(cluster) >= MAX_CLIENTS:
        return False
    cluster.start_worker(cluster.world.rng.choice(("m0", "m1", "m2", "m3", "m4")), cluster.world.rng.choice((1, 2)))
    return True


def _leave(cluster: SimulatedCluster) -> bool:
    worker = _some_worker(cluster)
    if worker is None or worker.paused:
        return False
    group = cluster.world.rng.choice(cluster.conditions.groups)[0]
    worker.member_state.leave(group)
    worker.send_soon()
    return True


def _join_again(cluster: SimulatedCluster) -> bool:
    worker = _some_worker(cluster)
    if worker is None or worker.paused:
        return False
    group, exclusive = cluster.world.rng.choice(cluster.conditions.groups)
    worker.member_state.join(group, cluster.world.rng.choice((1, 2)), exclusive=exclusive)
    worker.send_soon()
    return True


def _weight_change(cluster: SimulatedCluster) -> bool:
    worker = _some_worker(cluster)
    group = cluster.world.rng.choice(cluster.conditions.groups)[0]
    if worker is None or worker.paused or worker.member_state.view(group) is None:
        return False
    worker.member_state.join(group, cluster.world.rng.choice((1, 2)))
    worker.send_soon()
    return True


def _command(name: str) -> Callable[[SimulatedCluster], bool]:
    def command(cluster: SimulatedCluster) -> bool:
        client, actor = _some_client(cluster), _current(cluster)
        if client is None or actor is None or actor.paused:
            return False
        group = cluster.world.rng.choice(cluster.conditions.groups)[0]
        cluster.dismissed.add((client.member_id, group))
        cluster.world.later(0.0, actor, actor.command, name, group, client.member_id)
        return True

    return command


def _break_lock(cluster: SimulatedCluster) -> bool:
    actor = _current(cluster)
    if not cluster.conditions.locks or actor is None or actor.paused:
        return False
    name = f"lock{cluster.world.rng.randrange(cluster.conditions.locks)}"
    cluster.world.later(0.0, actor, actor.command, "break_lock", name)
    return True


def _bare_caller(cluster: SimulatedCluster) -> bool:
    if _running(cluster) >= MAX_CLIENTS:
        return False
    cluster.start_caller(f"x{len(cluster.callers)}")
    return True


FAULTS: dict[str, Callable[[SimulatedCluster], bool]] = {
    "pause": _pause,
    "crash": _crash,
    "restart": _restart,
    "zombie": _zombie,
    "node lost": _lose_node,
    "partition actor crash": _crash_partition_actor,
    "partition actor cut off": _cut_off_partition_actor,
    "partition actor pause": _pause_partition_actor,
    "cut": _cut,
    "partition actor cut": _cut_partition_actor,
    "join": _join,
    "leave": _leave,
    "join again": _join_again,
    "weight change": _weight_change,
    "drain": _command("drain"),
    "forget": _command("forget"),
    "bare caller": _bare_caller,
    "lock broken": _break_lock,
}
"""By kind: brings a fault about, or returns False where there is nothing to do it to."""
