"""A small group whose members come, die, leave and are slow, to look at with the other commands."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import click
import ray
from ray.exceptions import RayError

import partition_actor
from partition_actor import PartitionCoordinator, deployment
from partition_actor.errors import PartitionActorNotFound, PartitionError
from partition_actor.operate import text
from partition_actor.operate.connection import LOOK, ask, join_ray
from partition_actor.operate.options import Chosen, Failure, Operation, example

KEYS = 200
LOCK = "demo-report"
SLOW = 4.0
"""Seconds for which a slow member holds a hand-off up."""
READY = 60.0
"""Seconds for a worker to start."""


class DemoWorker:
    """A worker of the demonstration: a Ray actor with a member of an exclusive group."""

    def __init__(self, name: str, namespace: str, my_id: str, group: str, weight: int) -> None:
        self._coordinator = PartitionCoordinator(my_id, name, namespace)
        self._hold_up = threading.Event()
        self._coordinator.start()
        self._coordinator.join_group(group, weight, metadata={"demo": True}, exclusive=True)
        self._partition = self._coordinator.partition(group, range(KEYS))
        self._partition.on_lost(self._let_go)
        self._coordinator.elect(group)
        threading.Thread(target=self._report, name="demo-report", daemon=True).start()

    def hold_up_next(self) -> None:
        """Take long over the next keys that it loses."""
        self._hold_up.set()

    def stop(self) -> None:
        """Leave in good order."""
        self._coordinator.stop()

    def die(self) -> None:
        """End as after kill -9."""
        os.kill(os.getpid(), signal.SIGKILL)

    def _let_go(self, _keys: list[Any]) -> None:
        if self._hold_up.is_set():
            self._hold_up.clear()
            time.sleep(SLOW)

    def _report(self) -> None:
        """Take a lock now and then, as something that only one member does."""
        while self._coordinator.is_active():
            with contextlib.suppress(Exception), self._coordinator.lock(LOCK):
                time.sleep(2.0)
            time.sleep(random.uniform(10.0, 40.0))


class _Stop(Exception):
    """SIGTERM has come."""


@click.command(cls=Operation, epilog=example("demo", "demo --members 20 --every 1 --seconds 60"))
@click.option("--members", type=click.IntRange(2, 200), default=6, show_default=True, help="Members, about.")
@click.option(
    "--every", type=click.FloatRange(0.1), default=5.0, show_default=True, help="Seconds between two changes."
)
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="End after so long; else at Ctrl-C.")
@click.option("--group", default="demo", show_default=True, help="The group's name.")
@click.option("--seed", type=int, help="For the same changes again.")
def demo(members: int, every: float, seconds: float | None, group: str, seed: int | None) -> None:
    """Start workers that come, go and die, to look at from elsewhere.

    Needs a running Ray. It deploys the partition actor if there is none. At its end it ends its workers, and a
    partition actor that it has deployed itself.
    """
    chosen = Chosen.now()
    join_ray(chosen.address)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, _on_term)
    until = None if seconds is None else time.monotonic() + seconds
    show = Demonstration(chosen, group, random.Random(seed), _json_say if chosen.as_json else _say)
    try:
        show.start(members)
        while until is None or time.monotonic() < until:
            time.sleep(every if until is None else max(0.0, min(every, until - time.monotonic())))
            if until is None or time.monotonic() < until:
                show.change(members)
    except (KeyboardInterrupt, _Stop):
        pass
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not keep it from cleaning up
        show.end()
        for number, handler in before.items():
            signal.signal(number, handler)


def _on_term(_number: int, _frame: object) -> None:
    raise _Stop


def _say(what: str, _member: str | None) -> None:
    click.echo(f"{text.clock(time.time())}  {text.printable(what)}")


def _json_say(what: str, member: str | None) -> None:
    click.echo(text.to_json({"time": time.time(), "what": what, "member": member}, line=True))


class Demonstration:
    """The workers of one demonstration, by member id."""

    def __init__(
        self, chosen: Chosen, group: str, choice: random.Random, say: Callable[[str, str | None], None]
    ) -> None:
        self._where = chosen.name, chosen.namespace
        self._group = group
        self._choice = choice
        self._say = say
        self._workers: dict[str, Any] = {}
        self._next = 1
        self._is_own = False
        self._handle: Any = None

    def start(self, members: int) -> None:
        """Find or deploy the partition actor, and start the first workers."""
        try:
            self._handle = deployment.connect(*self._where, LOOK)
        except PartitionActorNotFound:
            self._is_own = True
            self._handle = partition_actor.deploy(*self._where)
        if self._group in (groups := ask(self._handle, "status")["groups"]) and groups[self._group]["members"]:
            raise Failure(f"group {self._group!r} has members already: choose another with --group")
        for _ in range(members):
            self._add()
        ray.get([worker.__ray_ready__.remote() for worker in self._workers.values()], timeout=READY)
        self._say(f"{members} members are in group {self._group}: look with top, status {self._group}, events", None)

    def change(self, members: int) -> None:
        """One thing happens."""
        try:
            self._change(members)
        except (PartitionError, RayError) as error:
            self._say(f"that failed: {str(error).strip().splitlines()[-1]}", None)

    def _change(self, members: int) -> None:
        if len(self._workers) < members:
            member = self._add()
            self._say(f"{member} starts", member)
            return
        member = self._choice.choice(sorted(self._workers))
        changes = [self._kill, self._leave, self._drain]
        self._choice.choice(changes if len(self._workers) > members else [*changes, self._slow_join])(member)

    def end(self) -> None:
        """End the workers, and the partition actor if it was deployed here and nobody else uses it."""
        ended = []  # said last: the output may be a pipe that is closed
        for worker in self._workers.values():
            ray.kill(worker)
        if self._workers:
            ended.append("its workers have ended")
        with contextlib.suppress(PartitionError, RayError):
            if self._is_own and not self._is_used_by_others():
                partition_actor.shutdown(*self._where)
                ended.append("the partition actor that it deployed has ended")
        for what in ended:
            self._say(what, None)

    def _is_used_by_others(self) -> bool:
        groups = ask(self._handle, "status")["groups"]
        return any(found["members"] for name, found in groups.items() if name != self._group)

    def _add(self) -> str:
        member, self._next = f"{self._group}-{self._next}", self._next + 1
        weight = self._choice.choice([1, 1, 1, 2])
        self._workers[member] = (
            ray.remote(DemoWorker)
            .options(num_cpus=0, max_concurrency=2)
            .remote(*self._where, member, self._group, weight)
        )
        return member

    def _kill(self, member: str) -> None:
        self._say(f"{member} is killed (kill -9)", member)
        worker = self._workers.pop(member)  # in a variable: Ray before 2.50 calls only by a handle that is kept
        worker.die.remote()

    def _leave(self, member: str) -> None:
        self._say(f"{member} stops in good order", member)
        worker = self._workers.pop(member)
        ray.get(worker.stop.remote(), timeout=READY)
        ray.kill(worker)

    def _drain(self, member: str) -> None:
        self._say(f"{member} is drained", member)
        worker = self._workers.pop(member)
        ask(self._handle, "drain", self._group, member)
        ray.get(worker.stop.remote(), timeout=READY)
        ray.kill(worker)

    def _slow_join(self, member: str) -> None:
        newcomer = self._add()
        self._say(f"{newcomer} starts, and {member} will take {SLOW:g} s to hand its keys over", newcomer)
        self._workers[member].hold_up_next.remote()
