"""The faults, and what users and operators do meanwhile. Each returns False where there is nothing to do it to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from partition_actor.testing.process import Process

if TYPE_CHECKING:
    from partition_actor.testing.cluster import SimulatedCluster
    from partition_actor.testing.coordinators import Coordinator
    from partition_actor.testing.workers import Worker

MAX_PROCESSES = 6
HEALTH_TIMEOUT = (0.1, 1.5)
"""Seconds from losing touch with a node until the GCS counts it dead, in units of a ttl."""


def inject(cluster: SimulatedCluster) -> None:
    """Bring one fault about, of the kinds that this run has."""
    kinds = [kind for kind in FAULTS if kind in cluster.conditions.faults]
    if kinds:
        kind = cluster.rng.choice(kinds)
        if FAULTS[kind](cluster) is not False:
            cluster.count(kind)
            cluster.log(None, "fault:", kind)


def _duration(cluster: SimulatedCluster) -> float:
    """Short, about a lease, or longer than the longest lease."""
    lease = cluster.rng.choice((cluster.settings.ttl, cluster.settings.max_ttl))
    return lease * cluster.rng.choice((cluster.rng.uniform(0.0, 0.5), cluster.rng.uniform(0.8, 1.3), 2.5))


def _some_worker(cluster: SimulatedCluster) -> Worker | None:
    running = [worker for worker in cluster.workers if worker.alive]
    return cluster.rng.choice(running) if running else None


def _some_process(cluster: SimulatedCluster) -> Process | None:
    running = [actor for actor in cluster.actors if actor.alive]
    return cluster.rng.choice(running) if running else None


def _current(cluster: SimulatedCluster) -> Coordinator | None:
    """The coordinator that the GCS knows, when it runs."""
    last = cluster.coordinators[-1]
    return last if last.alive and last.counted_alive else None


def _running(cluster: SimulatedCluster) -> int:
    return sum(actor.alive for actor in cluster.actors)


# -- processes ------------------------------------------------------------------------------------------------------


def _pause(cluster: SimulatedCluster) -> bool:
    process = _some_process(cluster)
    if process is None or process.paused:
        return False
    cluster.log(process, "is paused")
    cluster.pause(process, _duration(cluster))
    return True


def _crash(cluster: SimulatedCluster) -> bool:
    process = _some_process(cluster)
    if process is None:
        return False
    cluster.log(process, "crashes")
    cluster.kill(process)
    return True


def _restart(cluster: SimulatedCluster) -> bool:
    worker = _some_worker(cluster)
    if worker is None:
        return False
    cluster.kill(worker)
    cluster.log(worker, "crashes and comes back")
    cluster.later(cluster.rng.expovariate(4.0), None, cluster.start_worker, worker.member_id)
    return True


def _zombie(cluster: SimulatedCluster) -> bool:
    worker = _some_worker(cluster)
    if worker is None or _running(cluster) >= MAX_PROCESSES:
        return False
    if cluster.rng.random() < 0.5:
        cluster.pause(worker, _duration(cluster))
    cluster.log(worker, "gets a successor and lives on")
    cluster.start_worker(worker.member_id)
    return True


def _lose_node(cluster: SimulatedCluster) -> bool:
    """The GCS counts the node of a worker dead; the worker runs on, cut off or not."""
    worker = _some_worker(cluster)
    if worker is None:
        return False
    cluster.log(worker, "is on a node that the GCS loses")
    cluster.report_death(worker, False)
    if cluster.rng.random() < 0.5:
        cluster.cut(worker, "out", _duration(cluster))
    return True


# -- the coordinator ------------------------------------------------------------------------------------------------


def _crash_coordinator(cluster: SimulatedCluster) -> bool:
    coordinator = _current(cluster)
    if coordinator is None:
        return False
    cluster.log(coordinator, "crashes")
    cluster.kill(coordinator)
    coordinator.counted_alive = False
    delay = 0.01 if cluster.conditions.quick_gcs else cluster.rng.choice((0.01, cluster.rng.uniform(0.0, 2.0)))
    cluster.later(delay, None, _replace, cluster)
    return True


def _replace(cluster: SimulatedCluster) -> None:
    if not cluster.coordinators[-1].counted_alive:
        cluster.start_coordinator()


def _cut_off_coordinator(cluster: SimulatedCluster) -> bool:
    """The GCS loses touch with the coordinator's node, and may start another while the first runs on."""
    coordinator = _current(cluster)
    if coordinator is None or coordinator.cut_off:
        return False
    coordinator.cut_off = True
    cluster.log(coordinator, "is cut off from the GCS")
    if cluster.rng.random() < 0.3:
        cluster.pause(coordinator, _duration(cluster))
    patience = 0.05 if cluster.conditions.quick_gcs else cluster.rng.uniform(*HEALTH_TIMEOUT)
    cluster.later(patience, None, _judge, cluster, coordinator)
    return True


def _judge(cluster: SimulatedCluster, coordinator: Coordinator) -> None:
    if not coordinator.counted_alive or not coordinator.cut_off:
        return
    if cluster.rng.random() < 0.2:
        coordinator.cut_off = False
        return
    coordinator.counted_alive = False
    cluster.log(coordinator, "is counted dead by the GCS")
    delay = 0.02 if cluster.conditions.quick_gcs else cluster.rng.expovariate(4.0)
    cluster.later(delay, None, _replace, cluster)
    cluster.later(_duration(cluster) + 1.0, None, cluster.kill, coordinator)


def _pause_coordinator(cluster: SimulatedCluster) -> bool:
    coordinator = _current(cluster)
    if coordinator is None or coordinator.paused:
        return False
    cluster.log(coordinator, "is paused")
    cluster.pause(coordinator, _duration(cluster))
    return True


# -- the network ----------------------------------------------------------------------------------------------------


def _cut(cluster: SimulatedCluster) -> bool:
    process = _some_process(cluster)
    if process is None:
        return False
    direction = cluster.rng.choice(("in", "out"))
    cluster.log(process, "is cut", direction)
    cluster.cut(process, direction, _duration(cluster))
    return True


def _cut_coordinator(cluster: SimulatedCluster) -> bool:
    coordinator = _current(cluster)
    if coordinator is None:
        return False
    cluster.cut(coordinator, cluster.rng.choice(("in", "out")), _duration(cluster))
    return True


# -- users and operators --------------------------------------------------------------------------------------------


def _join(cluster: SimulatedCluster) -> bool:
    if _running(cluster) >= MAX_PROCESSES:
        return False
    cluster.start_worker(cluster.rng.choice(("m0", "m1", "m2", "m3", "m4")), cluster.rng.choice((1, 2)))
    return True


def _leave(cluster: SimulatedCluster) -> bool:
    worker = _some_worker(cluster)
    if worker is None or worker.paused:
        return False
    group = cluster.rng.choice(cluster.conditions.groups)[0]
    worker.ownership.leave(group)
    worker.send_soon()
    return True


def _join_again(cluster: SimulatedCluster) -> bool:
    worker = _some_worker(cluster)
    if worker is None or worker.paused:
        return False
    group, exclusive = cluster.rng.choice(cluster.conditions.groups)
    worker.ownership.join(group, cluster.rng.choice((1, 2)), exclusive=exclusive)
    worker.send_soon()
    return True


def _weight_change(cluster: SimulatedCluster) -> bool:
    worker = _some_worker(cluster)
    group = cluster.rng.choice(cluster.conditions.groups)[0]
    if worker is None or worker.paused or worker.ownership.view(group) is None:
        return False
    worker.ownership.join(group, cluster.rng.choice((1, 2)))
    worker.send_soon()
    return True


def _command(name: str) -> Callable[[SimulatedCluster], bool]:
    def command(cluster: SimulatedCluster) -> bool:
        worker, coordinator = _some_process(cluster), _current(cluster)
        if worker is None or coordinator is None or coordinator.paused:
            return False
        group = cluster.rng.choice(cluster.conditions.groups)[0]
        member_id = worker.member_id  # type: ignore[attr-defined]
        cluster.dismissed.add((member_id, group))
        cluster.later(0.0, coordinator, coordinator.command, name, group, member_id)
        return True

    return command


def _break_lock(cluster: SimulatedCluster) -> bool:
    coordinator = _current(cluster)
    if not cluster.conditions.locks or coordinator is None or coordinator.paused:
        return False
    name = f"lock{cluster.rng.randrange(cluster.conditions.locks)}"
    cluster.later(0.0, coordinator, coordinator.command, "break_lock", name)
    return True


def _bare_caller(cluster: SimulatedCluster) -> bool:
    if _running(cluster) >= MAX_PROCESSES:
        return False
    cluster.start_caller(f"x{len(cluster.callers)}")
    return True


FAULTS: dict[str, Callable[[SimulatedCluster], bool]] = {
    "pause": _pause,
    "crash": _crash,
    "restart": _restart,
    "zombie": _zombie,
    "node lost": _lose_node,
    "coordinator crash": _crash_coordinator,
    "coordinator cut off": _cut_off_coordinator,
    "coordinator pause": _pause_coordinator,
    "cut": _cut,
    "coordinator cut": _cut_coordinator,
    "join": _join,
    "leave": _leave,
    "join again": _join_again,
    "weight change": _weight_change,
    "drain": _command("drain"),
    "forget": _command("forget"),
    "bare caller": _bare_caller,
    "lock broken": _break_lock,
}
