"""The ``ray://`` backend of tooz: programs written for tooz run on Ray, with no service beside it.

::

    coordinator = tooz.coordination.get_coordinator("ray://", b"member")

The URL is ``ray://[head:port]/[namespace/][name]?option=value&…``. ``head:port`` is Ray's address (its GCS, port 6379
by default); without it, it is that of the Ray which this process is in, or that of ``RAY_ADDRESS``, or of the Ray that
runs on this machine; none is started. ``namespace`` and ``name`` are those of the partition actor's actor, by default
as those of ``deploy()``; one that does not run is deployed. Options, by URL or by keyword, times in seconds:

timeout              30    how long a member may go without `heartbeat`, before it leaves its groups by itself
membership_timeout         the same for its groups alone; by default `timeout`
lock_timeout               the same for its locks and what it leads; by default `timeout`
call_timeout         5     how long a call waits for the partition actor, before it raises ``OperationTimedOut``
ttl, hold, …               every field of ``Settings``, for a partition actor that this driver deploys

A program that goes on beating and does not run (it was stopped, or is cut off) is out when its lease (`ttl`) has ended;
one whose process is dead, at once. Who was out comes back with its next `heartbeat`, by itself.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from base64 import b85decode, b85encode
from typing import Any

import tooz
from tooz import coordination

from partition_actor import clock
from partition_actor.arguments import MAX_WEIGHT
from partition_actor.core.member import Change
from partition_actor.core.messages import leader_name
from partition_actor.deployment import deploy
from partition_actor.errors import GroupFull, GroupNotFound, PartitionActorUnavailable, PartitionError
from partition_actor.member.background import run_in_background
from partition_actor.member.lock import Hold
from partition_actor.member.session import Session
from partition_actor.tooz.parts import Done, RayLock, text_of, translated
from partition_actor.tooz.url import RayUrl, join_ray

log = logging.getLogger(__name__)

LOOK_AGAIN = 1.0
"""Seconds between two looks at whether a program that was silent for too long beats again."""


def _packed(capabilities: Any) -> dict[str, str]:
    """Capabilities as a member's metadata: the partition actor passes the text on, and never unpickles it."""
    return {"tooz": b85encode(pickle.dumps(capabilities)).decode()}


def _unpacked(metadata: Any) -> Any:
    """What a member gave as its capabilities; {} for one that gave none, or is no program of tooz."""
    packed = (metadata or {}).get("tooz")
    capabilities = None if packed is None else pickle.loads(b85decode(packed))
    return {} if capabilities is None else capabilities


def _weight(capabilities: Any) -> int:
    """The weight in the ring, which tooz's partitioner puts among the capabilities."""
    weight = capabilities.get("weight", 1) if isinstance(capabilities, dict) else 1
    return weight if isinstance(weight, int) and 1 <= weight <= MAX_WEIGHT else 1


class RayDriver(coordination.CoordinationDriverCachedRunWatchers):
    """The partition actor's actor, as tooz's programs see it.

    What it claims of itself, in `CHARACTERISTICS`, and why (the tests are in tests/tooz/test_driver.py):

    - DISTRIBUTED_ACROSS_THREADS: any thread may call any method; a session's state is behind one lock.
    - DISTRIBUTED_ACROSS_PROCESSES, DISTRIBUTED_ACROSS_HOSTS: all that is shared is in one actor, which every process of
      every node of the Ray cluster reaches.
    - SEQUENTIAL, and so CAUSAL: a call returns when the actor has done what was asked, and one session's requests are
      taken in in their order.

    What it does not claim: NON_TIMEOUT_BASED, as a process that is cut off is out by a lease. LINEARIZABLE and those
    about partitions, as a partition actor that was replaced without knowing yet may answer a reader late; locks and
    leaders are exact even then (rules 8 and 10 of ``docs/guarantees.md``).
    """

    CHARACTERISTICS = (
        coordination.Characteristics.DISTRIBUTED_ACROSS_THREADS,
        coordination.Characteristics.DISTRIBUTED_ACROSS_PROCESSES,
        coordination.Characteristics.DISTRIBUTED_ACROSS_HOSTS,
        coordination.Characteristics.SEQUENTIAL,
        coordination.Characteristics.CAUSAL,
    )

    def __init__(self, member_id: bytes | str, parsed_url: Any, options: dict[str, Any]) -> None:
        self._text_id = text_of(member_id)
        super().__init__(self._text_id.encode(), parsed_url, options)
        self._target = RayUrl.of(parsed_url, options)
        self.line = Session(
            self._text_id, self._target.name, self._target.namespace, self._target.settings, self._on_changes
        )
        self._read: dict[bytes, set[bytes]] = {}
        """What the program last read of each group's members: its watchers are told of what has changed since."""
        self._joined: dict[str, tuple[bytes, Any]] = {}
        """By the partition actor's name of a group that was joined: tooz's, and the capabilities."""
        self._candidacies: dict[bytes, tuple[Hold, int]] = {}
        """By group, what makes this member its leader, and the token that the watchers were last told of."""
        self._beat = clock.now()
        self._minding: Any = None

    # -- life ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        try:
            join_ray(self._target)
            deploy(self._target.name, self._target.namespace, self._target.wanted)
        except PartitionError as error:
            raise coordination.ToozConnectionError(str(error)) from error
        self._beat = clock.now()
        self.line.start()
        if self.line.failure is not None:
            raise coordination.ToozConnectionError(str(self.line.failure))
        self._minding = run_in_background(self._mind_the_heart())

    def _stop(self) -> None:
        self._minding.cancel()
        self._candidacies.clear()
        self._joined.clear()
        if self.line.stop():
            self.line.close_session()

    def heartbeat(self) -> float:
        """Say that the program is alive, and join again what it was out of; seconds until the next is due."""
        self._beat = clock.now()
        for group, (group_id, capabilities) in list(self._joined.items()):
            if self.line.state(group) not in ("joining", "member", "superseded") and self.line.active:
                log.warning(
                    "member %r had left group %r as nobody had called heartbeat(); joins again", self._text_id, group
                )
                self._join(group_id, group, capabilities)
        return min(self._target.membership_timeout, self._target.lock_timeout)

    async def _mind_the_heart(self) -> None:
        """Leave the groups, and lose the locks, when the program does not beat any more."""
        target, line = self._target, self.line
        while True:
            silent = clock.now() - self._beat
            with line.lock:
                left = [
                    group for group in self._joined if silent >= target.membership_timeout and not line.is_out(group)
                ]
                for group in left:
                    line.member_state.leave(group)
                lost = silent >= target.lock_timeout and line.member_state.locks.held()
                if lost:
                    line.member_state.locks.lapse()
            if left or lost:
                line.send_now()
            ahead = [limit - silent for limit in (target.membership_timeout, target.lock_timeout) if limit > silent]
            await asyncio.sleep(min(ahead, default=LOOK_AGAIN))

    def _on_changes(self, changes: list[Change]) -> None:
        for change in changes:
            if change.rejoined and change.group in self._joined:
                self._joined_groups.add(self._joined[change.group][0])

    # -- groups -------------------------------------------------------------------------------------------------

    def create_group(self, group_id: bytes) -> Done[None]:
        """Make a group."""

        def create() -> None:
            if not self.line.ask_now("make_group", text_of(group_id)):
                raise coordination.GroupAlreadyExist(group_id)

        return Done(create)

    def delete_group(self, group_id: bytes) -> Done[None]:
        """Delete a group without members."""

        def delete() -> None:
            if not self._ask("delete_group", group_id):
                raise coordination.GroupNotEmpty(group_id)

        return Done(delete)

    def _destroy_group(self, group_id: bytes) -> None:
        """Delete a group, whoever is in it: for tests and for operators."""
        for member in self._ask("get_members", group_id):
            self._ask("drain", group_id, member)
        self._ask("delete_group", group_id)

    def get_groups(self) -> Done[list[bytes]]:
        """The ids of all groups."""
        return Done(lambda: [name.encode() for name in self.line.ask_now("get_groups")])

    def join_group(self, group_id: bytes, capabilities: Any = None) -> Done[None]:
        """Become a member of a group that has been made, under an id that nobody has in it."""

        def join() -> None:
            group = text_of(group_id)
            if self.line.state(group) in ("joining", "member"):
                raise coordination.MemberAlreadyExist(group_id, self._member_id)
            self._join(group_id, group, capabilities)
            self._joined[group] = (group_id, capabilities)

        return Done(join)

    def _join(self, group_id: bytes, group: str, capabilities: Any) -> None:
        line = self.line
        with line.lock:
            line.forget_failure()
            line.member_state.join(
                group, _weight(capabilities), _packed(capabilities), exclusive=False, conditional=True
            )
        line.send_now()
        line.wait(lambda: line.state(group) != "joining" or isinstance(line.failure, GroupFull))
        state = line.state(group)
        if state == "member":
            self._joined_groups.add(group_id)
            return
        with line.lock:
            line.member_state.leave(group)
        if state == "missing":
            raise coordination.GroupNotCreated(group_id)
        if state in ("taken", "superseded"):
            raise coordination.MemberAlreadyExist(group_id, self._member_id)
        if state == "conflict":
            raise tooz.ToozError(f"group {group!r} is exclusive: its members are PartitionCoordinators")
        if line.failure is not None:
            raise line.failure
        raise PartitionActorUnavailable(
            f"the partition actor did not say within {line.call_timeout} s who is in group {group!r}"
        )

    def leave_group(self, group_id: bytes) -> Done[None]:
        """Leave a group, or take whoever has this member's id out of it; all who ask afterwards see that."""

        def leave() -> None:
            group, line = text_of(group_id), self.line
            mine = line.state(group) in ("joining", "member")
            if not mine and self._text_id not in self._ask("get_members", group_id):
                raise coordination.MemberNotJoined(group_id, self._member_id)
            if mine:
                with line.lock:
                    line.member_state.leave(group)
                line.send_now()
                if not line.wait(lambda: line.is_out(group)):
                    raise PartitionActorUnavailable(f"the partition actor did not let go of group {group!r} yet")
            else:
                self._ask("drain", group_id, self._text_id)
            self._joined.pop(group, None)
            self._joined_groups.discard(group_id)

        return Done(leave)

    def get_members(self, group_id: bytes) -> Done[set[bytes]]:
        """The ids of a group's members."""

        def read() -> set[bytes]:
            members = {member.encode() for member in self._ask("get_members", group_id)}
            self._read[group_id] = members
            return set(members)

        return Done(read)

    def _init_watch_group(self, group_id: bytes) -> None:
        # Who reads the members and then begins to watch must hear of those who came in between (gnocchi#185).
        read = self._read.get(group_id)
        members = self.get_members(group_id).get()
        self._group_members.setdefault(group_id, members if read is None else read)

    def get_member_capabilities(self, group_id: bytes, member_id: bytes) -> Done[Any]:
        """The capabilities of a member."""

        def look() -> Any:
            found = self._ask("get_metadata", group_id)
            if text_of(member_id) not in found:
                raise coordination.MemberNotJoined(group_id, member_id)
            return _unpacked(found[text_of(member_id)])

        return Done(look)

    def get_members_with_capabilities(self, group_id: bytes) -> Done[dict[bytes, Any]]:
        """All members and their capabilities."""
        return Done(
            lambda: {
                member.encode(): _unpacked(metadata) for member, metadata in self._ask("get_metadata", group_id).items()
            }
        )

    def get_member_info(self, group_id: bytes, member_id: bytes) -> Done[dict[str, Any]]:
        """``{"capabilities": ...}`` of a member."""
        return Done(lambda: {"capabilities": self.get_member_capabilities(group_id, member_id).get()})

    def update_capabilities(self, group_id: bytes, capabilities: Any) -> Done[None]:
        """Change this member's capabilities; all who ask afterwards see the new ones."""

        def update() -> None:
            group, line = text_of(group_id), self.line
            if line.state(group) != "member":
                self._ask("get_members", group_id)
                raise coordination.MemberNotJoined(group_id, self._member_id)
            with line.lock:
                line.member_state.join(group, _weight(capabilities), _packed(capabilities))
                seq = line.member_state.want_reply()
            line.send_now()
            if not line.wait(lambda: line.member_state.answered >= seq):
                raise PartitionActorUnavailable(
                    f"the partition actor did not take in within {line.call_timeout} s what is new"
                )
            self._joined[group] = (group_id, capabilities)

        return Done(update)

    def _ask(self, method: str, group_id: bytes, *arguments: Any) -> Any:
        try:
            return self.line.ask_now(method, text_of(group_id), *arguments)
        except GroupNotFound:
            raise coordination.GroupNotCreated(group_id) from None

    # -- watchers, leaders, locks -------------------------------------------------------------------------------

    def run_watchers(self, timeout: float | None = None) -> list[Any]:
        """Call the watchers of all that has changed, and be a candidate where an election is watched."""
        return super().run_watchers(timeout) + self._elect()

    def run_elect_coordinator(self) -> None:
        """Be a candidate where an election is watched, and call the watchers where this member leads."""
        self._elect()

    def _elect(self) -> list[Any]:
        results = []
        with translated():
            for group_id in list(self._hooks_elected_leader):
                hold, told = self._candidacies.get(group_id) or (Hold(self.line, leader_name(text_of(group_id))), 0)
                if hold.state not in ("waiting", "held"):
                    hold.renew()
                self.line.wait(hold.send())
                token = hold.token
                self._candidacies[group_id] = (hold, token or told)
                if token and token != told:
                    event = coordination.LeaderElected(group_id, self._member_id)
                    results += self._hooks_elected_leader[group_id].run(event)
        return results

    def unwatch_elected_as_leader(self, group_id: bytes, callback: Any) -> None:
        """Watch no more; a member that watches no election of a group does not lead it."""
        super().unwatch_elected_as_leader(group_id, callback)
        if group_id not in self._hooks_elected_leader and group_id in self._candidacies:
            self._candidacies.pop(group_id)[0].drop()

    def stand_down_group_leader(self, group_id: bytes) -> bool:
        """Let the next candidate lead; whether this member did. It stays a candidate, behind all others."""
        hold, _ = self._candidacies.get(group_id, (None, 0))
        if hold is None or not hold.held:
            return False
        hold.renew()
        self.line.wait(hold.send())
        return True

    def get_leader(self, group_id: bytes) -> Done[Any]:
        """The id of the member that leads a group, or None."""

        def look() -> bytes | None:
            leader = self._ask("get_leader", group_id)
            return None if leader is None else leader[0].encode()

        return Done(look)

    def get_lock(self, name: bytes) -> RayLock:
        """A lock."""
        return RayLock(self.line, self.heartbeat, name)
