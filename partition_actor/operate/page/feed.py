"""Asks the partition actor once a second while anybody looks, and tells all who look.

A browser that is slow, or does not read at all, costs nothing but itself: it is told the latest state when it is ready
for it, and what it has missed of the states before is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any

from partition_actor.operate.page.history import History
from partition_actor.operate.page.picture import (
    RingPicture,
    actor_picture,
    aged,
    fleets_picture,
    group_picture,
    groups_picture,
    locks_picture,
)
from partition_actor.operate.page.source import Away, Source

log = logging.getLogger(__name__)

PERIOD = 1.0
"""Seconds between two calls of the partition actor."""
PATIENCE = 4.0
"""Seconds without an answer after which the partition actor counts as lost, though the call goes on."""
GROUPS_AT_ONCE = 20
"""Groups that one call may ask for."""
BALANCE_AFTER = 5.0
"""Seconds after which the balance of a group whose epoch has changed is worked out anew, for the list of groups."""
BALANCE_MEMBERS = 1_000
"""Members of such groups in one call, more or less."""


@dataclass
class Connection:
    """Whether the partition actor answers."""

    state: str = "connecting"
    """connecting, live or lost."""
    since: float = 0.0
    """Unix seconds: when this state began."""
    answered: float | None = None
    """Unix seconds: the latest answer."""
    why: str | None = None
    incarnation: int | None = None
    replaced: float | None = None
    """Unix seconds: when another incarnation was first seen."""

    def turn(self, state: str, why: str | None = None) -> None:
        """Go into a state; it lasts since it was first said."""
        if state != self.state:
            self.state, self.since = state, time.time()
        self.why = why


class Feed:
    """The latest state of the partition actor for as many as look at it. For one event loop."""

    def __init__(self, source: Source, period: float = PERIOD) -> None:
        self._source, self._period = source, period
        self._looks: Counter[str | None] = Counter()
        """How many look at each group; None: at the list of groups."""
        self._loop: asyncio.Task[None] | None = None
        self._asked_at = float("-inf")
        self._turn = 0
        self._news: asyncio.Future[None] | None = None
        self._ended = False
        self._version = 0
        self._heard: list[tuple[float, int]] = []
        """When how many heartbeats had been taken in, in the last seconds."""
        self._balances: dict[str, float | None] = {}
        self._balanced: dict[str, tuple[tuple[int, int], float]] = {}
        self._status: dict[str, Any] | None = None
        self._groups: dict[str, dict[str, Any] | None] = {}
        self._fleets: dict[str, dict[str, Any]] = {}
        self._pictures: dict[str, RingPicture] = {}
        self.history = History()
        self.connection = Connection(since=time.time())

    @contextlib.contextmanager
    def look(self, group: str | None = None) -> Iterator[None]:
        """While it is open, this group (or the list of groups) is asked for."""
        self._looks[group] += 1
        if self._loop is None or self._loop.done():
            self._loop = asyncio.get_running_loop().create_task(self._run())
        try:
            yield
        finally:
            self._looks[group] -= 1
            if not self._looks[group]:
                del self._looks[group]
                if group is not None:
                    self._groups.pop(group, None)
                    self._pictures.pop(group, None)

    async def states(self, group: str | None = None) -> AsyncGenerator[int, None]:
        """The number of the latest state, whenever there is a new one that has what is known of `group`."""
        seen = self._version if not self._has(group) else -1
        with self.look(group):
            while not self._ended:
                if self._version > seen:
                    seen = self._version
                    if self._has(group) or self.connection.state == "lost":
                        yield seen
                    continue
                if self._news is None or self._news.done():
                    self._news = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._news)

    async def first_state(self, group: str | None = None) -> None:
        """Wait until there is a state that has what is known of `group`."""
        async with contextlib.aclosing(self.states(group)) as states:
            async for _ in states:
                return

    def state(self, group: str | None = None, find: str = "", fleet: str | None = None) -> dict[str, Any]:
        """The latest state, as builtins for JSON; of `group`, of `fleet`, or of the groups whose names have `find`."""
        status, details = self._status, None if group is None else self._groups.get(group)
        state: dict[str, Any] = {"now": time.time(), "connection": vars(self.connection)}
        state["actor"] = None if status is None else actor_picture(status, self._heartbeat_rate())
        if fleet is not None:
            return state | {"fleet": aged(self._fleets[fleet]) if fleet in self._fleets else None}
        state |= fleets_picture(self._fleets, group)
        if group is None:
            state |= {"groups": [], "found": 0} if status is None else groups_picture(status, self._balances, find)
        else:
            picture = self._pictures.get(group)
            state |= {"group": None if details is None else group_picture(group, details, picture)}
        return state | ({"locks": [], "locks_found": 0} if status is None else locks_picture(status, details))

    def ring(self, group: str) -> RingPicture | None:
        """The ring of a group that somebody looks at; None if it is not known."""
        return self._pictures.get(group)

    async def stop(self) -> None:
        """End the calls, and all streams of states."""
        self._ended = True
        self._wake()
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop

    # -- asking -------------------------------------------------------------------------------------------------

    def _has(self, group: str | None) -> bool:
        fresh = time.monotonic() - self._asked_at < 2 * self._period
        return fresh and self._status is not None and (group is None or group in self._groups)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, self._asked_at + self._period - time.monotonic()))
            if not self._looks:
                return
            self._asked_at = time.monotonic()
            try:
                await self._ask_and_say_if_it_takes_long()
            except Away as away:
                self.connection.turn("lost", str(away))
            except Exception as error:  # an answer that this version does not understand must not end the page
                log.exception("the page could not take in an answer of the partition actor")
                self.connection.turn("lost", f"its answer cannot be read: {type(error).__name__}: {error}")
            self._publish()

    async def _ask_and_say_if_it_takes_long(self) -> None:
        asking = asyncio.get_running_loop().create_task(self._ask())
        try:
            while not (await asyncio.wait({asking}, timeout=PATIENCE))[0]:
                self.connection.turn("lost", "it has not answered yet")
                self._publish()
            await asking
        finally:
            asking.cancel()

    def _publish(self) -> None:
        self._version += 1
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _ask(self) -> None:
        groups, since = self._groups_to_ask(), self.history.since()
        answer = await self._source.observe(groups, since)
        status, incarnation = answer["status"], answer["status"]["incarnation"]
        found: dict[str, dict[str, Any] | None] = answer["groups"]
        pictures = {name: await self._picture(name, found[name], status) for name in groups if found.get(name)}
        connection = self.connection
        if connection.incarnation not in (None, incarnation):
            connection.replaced = time.time()
            self._heard.clear()
            self._balances.clear()
            self._balanced.clear()
        connection.turn("live")
        connection.incarnation, connection.answered = incarnation, time.time()
        self._status = status
        self._fleets = answer.get("fleets", {})  # a partition actor of a version before knows of none
        self._heard = [*self._heard[-9:], (time.monotonic(), status.get("heartbeats", 0))]
        self.history.take(since, incarnation, answer["events"], status.get("events", 0))
        for name in groups:
            if name in self._looks:
                self._groups[name] = found.get(name)
                if name in pictures:
                    self._pictures[name] = pictures[name]
                else:
                    self._pictures.pop(name, None)
            if name in pictures:
                self._balances[name] = pictures[name].balance
                self._balanced[name] = pictures[name].epoch, time.monotonic()
        for name in self._balances.keys() - status["groups"].keys():
            del self._balances[name], self._balanced[name]

    def _groups_to_ask(self) -> list[str]:
        """The groups that somebody looks at, in turn if they are many, and some whose balance is not known."""
        shown = sorted(name for name in self._looks if name is not None)
        if len(shown) > GROUPS_AT_ONCE:
            self._turn = (self._turn + GROUPS_AT_ONCE) % len(shown)
            return (shown[self._turn :] + shown[: self._turn])[:GROUPS_AT_ONCE]
        if None not in self._looks or self._status is None:
            return shown
        members, now = 0, time.monotonic()
        for name, group in sorted(self._status["groups"].items(), key=lambda item: self._last_balanced(item[0])):
            epoch, at = self._balanced.get(name, (None, float("-inf")))
            if name in shown or epoch == tuple(group["epoch"]) or now - at < BALANCE_AFTER:
                continue
            members += group["members"]
            if len(shown) == GROUPS_AT_ONCE or (members > BALANCE_MEMBERS and members > group["members"]):
                break
            shown.append(name)
        return shown

    def _last_balanced(self, group: str) -> float:
        return self._balanced[group][1] if group in self._balanced else float("-inf")

    async def _picture(self, name: str, group: Any, status: dict[str, Any]) -> RingPicture:
        latest = self._pictures.get(name)
        if latest is not None and latest.epoch == tuple(group["epoch"]):
            return latest
        # In a thread: that of a thousand members takes many milliseconds.
        return await asyncio.to_thread(RingPicture.of, group, status["settings"])

    def _heartbeat_rate(self) -> float | None:
        if len(self._heard) < 2:
            return None
        (began, before), (ended, after) = self._heard[0], self._heard[-1]
        return (after - before) / (ended - began)
