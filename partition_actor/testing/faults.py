"""The faults, and what users and operators do meanwhile. Each returns False where there is nothing to do it to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from partition_actor.testing.process import Process

if TYPE_CHECKING:
    from partition_actor.testing.cluster import SimulatedCluster
    from partition_actor.testing.partition_actors import SimulatedPartitionActor
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
    running = [holder for holder in cluster.holders if holder.alive]
    return cluster.rng.choice(running) if running else None


def _current(cluster: SimulatedCluster) -> SimulatedPartitionActor | None:
    """The partition actor that the GCS knows, when it runs."""
    last = cluster.partition_actors[-1]
    return last if last.alive and last.counted_alive else None


def _running(cluster: SimulatedCluster) -> int:
    return sum(holder.alive for holder in cluster.holders)


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


# -- the partition actor
# ------------------------------------------------------------------------------------------------


def _crash_partition_actor(cluster: SimulatedCluster) -> bool:
    actor = _current(cluster)
    if actor is None:
        return False
    cluster.log(actor, "crashes")
    cluster.kill(actor)
    actor.counted_alive = False
    delay = 0.01 if cluster.conditions.quick_gcs else cluster.rng.choice((0.01, cluster.rng.uniform(0.0, 2.0)))
    cluster.later(delay, None, _replace, cluster)
    return True


def _replace(cluster: SimulatedCluster) -> None:
    if not cluster.partition_actors[-1].counted_alive:
        cluster.start_partition_actor()


def _cut_off_partition_actor(cluster: SimulatedCluster) -> bool:
    """The GCS loses touch with the partition actor's node, and may start another while the first runs on."""
    actor = _current(cluster)
    if actor is None or actor.cut_off:
        return False
    actor.cut_off = True
    cluster.log(actor, "is cut off from the GCS")
    if cluster.rng.random() < 0.3:
        cluster.pause(actor, _duration(cluster))
    patience = 0.05 if cluster.conditions.quick_gcs else cluster.rng.uniform(*HEALTH_TIMEOUT)
    cluster.later(patience, None, _judge, cluster, actor)
    return True


def _judge(cluster: SimulatedCluster, actor: SimulatedPartitionActor) -> None:
    if not actor.counted_alive or not actor.cut_off:
        return
    if cluster.rng.random() < 0.2:
        actor.cut_off = False
        return
    actor.counted_alive = False
    cluster.log(actor, "is counted dead by the GCS")
    delay = 0.02 if cluster.conditions.quick_gcs else cluster.rng.expovariate(4.0)
    cluster.later(delay, None, _replace, cluster)
    cluster.later(_duration(cluster) + 1.0, None, cluster.kill, actor)


def _pause_partition_actor(cluster: SimulatedCluster) -> bool:
    actor = _current(cluster)
    if actor is None or actor.paused:
        return False
    cluster.log(actor, "is paused")
    cluster.pause(actor, _duration(cluster))
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


def _cut_partition_actor(cluster: SimulatedCluster) -> bool:
    actor = _current(cluster)
    if actor is None:
        return False
    cluster.cut(actor, cluster.rng.choice(("in", "out")), _duration(cluster))
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
    worker.member_state.leave(group)
    worker.send_soon()
    return True


def _join_again(cluster: SimulatedCluster) -> bool:
    worker = _some_worker(cluster)
    if worker is None or worker.paused:
        return False
    group, exclusive = cluster.rng.choice(cluster.conditions.groups)
    worker.member_state.join(group, cluster.rng.choice((1, 2)), exclusive=exclusive)
    worker.send_soon()
    return True


def _weight_change(cluster: SimulatedCluster) -> bool:
    worker = _some_worker(cluster)
    group = cluster.rng.choice(cluster.conditions.groups)[0]
    if worker is None or worker.paused or worker.member_state.view(group) is None:
        return False
    worker.member_state.join(group, cluster.rng.choice((1, 2)))
    worker.send_soon()
    return True


def _command(name: str) -> Callable[[SimulatedCluster], bool]:
    def command(cluster: SimulatedCluster) -> bool:
        worker, actor = _some_process(cluster), _current(cluster)
        if worker is None or actor is None or actor.paused:
            return False
        group = cluster.rng.choice(cluster.conditions.groups)[0]
        member_id = worker.member_id  # type: ignore[attr-defined]
        cluster.dismissed.add((member_id, group))
        cluster.later(0.0, actor, actor.command, name, group, member_id)
        return True

    return command


def _break_lock(cluster: SimulatedCluster) -> bool:
    actor = _current(cluster)
    if not cluster.conditions.locks or actor is None or actor.paused:
        return False
    name = f"lock{cluster.rng.randrange(cluster.conditions.locks)}"
    cluster.later(0.0, actor, actor.command, "break_lock", name)
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
