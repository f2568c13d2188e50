"""What the simulated members do with locks."""

from __future__ import annotations

import random
from collections.abc import Callable

from partition_actor.core.member import MemberState
from partition_actor.testing.world import Process

MAX_REQUESTS = 3
"""Locks that a member wants or holds at a time."""


class LockUser:
    """Takes and releases locks for one process at random; it holds each as long as it may, up to two leases.

    `send_soon` sends the next heartbeat without delay.
    """

    def __init__(self, process: Process, member_state: MemberState, send_soon: Callable[[], None]) -> None:
        self._process, self._member_state, self._send_soon = process, member_state, send_soon
        self._world = process.world
        self._rng = random.Random(f"{self._world.seed} {process.name}")
        self._tickets: dict[int, float] = {}
        """When to drop each, on the process's clock."""
        self.act()

    def act(self) -> None:
        """Drop the locks whose time is over, perhaps want another, and come back later."""
        world, rng = self._world, self._rng
        member_state, locks, now = self._member_state, self._member_state.locks, self._process.clock.now()
        for ticket, until in list(self._tickets.items()):
            gone = locks.state(ticket) not in ("waiting", "held")
            if gone or now >= until or (world.faults_over and member_state.holds(now, ticket)):
                self._drop(ticket)
        if len(self._tickets) < MAX_REQUESTS and not world.faults_over and rng.random() < 0.6:
            name = f"lock{rng.randrange(world.conditions.locks)}"
            ticket = locks.add(name, shared=rng.random() < 0.4, waits=rng.random() < 0.7)
            self._tickets[ticket] = now + world.settings.ttl * rng.choice((0.1, 0.5, 2.0, 30.0))
            world.counts["lock wanted"] += 1
            self._send()
        world.later(rng.uniform(0.0, 0.1 if world.faults_over else 0.6), self._process, self.act)

    def _drop(self, ticket: int) -> None:
        locks = self._member_state.locks
        locks.drop(ticket)
        until = self._tickets.pop(ticket)
        if not self._world.faults_over and self._rng.random() < 0.2:  # a leader that resigns and stands again
            self._tickets[locks.add("lock0")] = until + self._world.settings.ttl
        self._send()

    def _send(self) -> None:
        if self._rng.random() < 0.5:
            self._member_state.want_reply()
        self._send_soon()
