"""The ``ray://`` backend of tooz: programs written for tooz run on Ray, with no service beside it.

::

    coordinator = tooz.coordination.get_coordinator("ray://", b"member")

The URL is ``ray://[head:port]/[namespace/][name]?option=value&…``. ``head:port`` is the address of Ray's GCS (default
port 6379). Without it the driver uses the Ray that this process is connected to, else that of ``RAY_ADDRESS``, else the
one that runs on this machine; it starts none. ``namespace`` and ``name`` are those of the partition actor, by default
those of ``deploy()``; if it does not run, the driver deploys it.

Ids of members and groups come back in the type of the driver's own id, as with tooz's file driver: a program that gives
a ``str``, as ceilometer did, gets ``str``. Both types name the same member, group or lock.

Options, by URL or by keyword, times in seconds:

timeout              30    how long a member stays in its groups, and keeps its locks, without a call of `heartbeat`
membership_timeout         the same for its groups only; default: `timeout`
lock_timeout               the same for its locks and leaderships only; default: `timeout`
call_timeout         5     how long a call waits for the partition actor before it raises ``OperationTimedOut``
ttl, hold, …               every field of ``Settings``, for a partition actor that this driver deploys

A process that stops, or is cut off, is out when its lease (`ttl`) ends; one that dies is out at once. A member that is
out rejoins with its next `heartbeat`.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import ray.cloudpickle
import tooz
from ray.exceptions import RayError
from tooz import coordination, locking
from tooz.utils import SerializationError

from partition_actor import clock
from partition_actor.arguments import MAX_WEIGHT
from partition_actor.core.member import Change
from partition_actor.core.messages import leader_name
from partition_actor.deployment import deploy
from partition_actor.errors import GroupFull, GroupNotFound, MemberNotFound, PartitionActorUnavailable, PartitionError
from partition_actor.member.background import run_in_background
from partition_actor.member.lock import Hold, Lock
from partition_actor.member.ray_transport import RayTransport
from partition_actor.member.session import Session
from partition_actor.metadata import pack_metadata
from partition_actor.tooz.results import completed, tooz_errors
from partition_actor.tooz.url import RayUrl, connect_to_ray

log = logging.getLogger(__name__)

_Told = tuple[int, bytes | None]
"""What a member tells of itself when it joins: its weight and its packed metadata."""

SILENCE_CHECK_INTERVAL = 1.0
"""Seconds between checks whether a program that was silent for too long calls `heartbeat` again."""


def text_of(name: bytes | str) -> str:
    """An id or name as the partition actor knows it: tooz's users give bytes or str."""
    try:
        return name if isinstance(name, str) else name.decode()
    except UnicodeDecodeError:
        raise tooz.ToozError(f"id: got {name!r}, expected text in UTF-8") from None


def _packed(capabilities: Any) -> _Told:
    """The capabilities to be told. The weight is a capability that tooz's partitioner sets.

    Raises ``SerializationError``, and ``InvalidArgument`` when they are too large.
    """
    weight = capabilities.get("weight", 1) if isinstance(capabilities, dict) else 1
    valid = isinstance(weight, int) and 1 <= weight <= MAX_WEIGHT
    try:
        pickled = ray.cloudpickle.dumps(capabilities)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise SerializationError(f"these capabilities cannot be pickled: {error}") from error
    return weight if valid else 1, pack_metadata({"tooz": pickled})


def _unpacked(metadata: Any) -> Any:
    """A member's capabilities; {} if it gave none or does not use tooz. Raises what unpickling them raises."""
    pickled = metadata.get("tooz") if isinstance(metadata, dict) else None
    capabilities = pickle.loads(pickled) if isinstance(pickled, bytes) else None
    return {} if capabilities is None else capabilities


class RayLock(locking.Lock):
    """A lock of the partition actor with tooz's methods and errors. Each `acquire` that succeeds needs one `release`.

    `heartbeat` is the driver's: it keeps all its locks alive.
    """

    def __init__(self, name: bytes | str, lock: Lock, heartbeat: Callable[[], Any]) -> None:
        super().__init__(name)  # type: ignore[arg-type]
        self._lock = lock
        self._heartbeat = heartbeat

    def acquire(self, blocking: bool | float = True, shared: bool = False, timeout: float | None = None) -> bool:
        """Take the lock; a number for `blocking` is a timeout in seconds. Waiters get it in the order of asking."""
        if not isinstance(blocking, bool):
            blocking, timeout = True, blocking
        wait = blocking and (timeout is None or timeout > 0)
        with tooz_errors():
            return self._lock.acquire(wait, timeout if wait else None, shared)

    def release(self) -> bool:
        """Give the lock back; False if it was not held: never taken, broken or lapsed."""
        with tooz_errors():
            return self._lock.release()

    def break_(self) -> bool:
        """Take the lock from its holders; returns when they know, so that it is never held twice."""
        with tooz_errors():
            return self._lock.break_()

    def is_still_owner(self) -> bool:
        """Return whether the lock is held by this object."""
        return self._lock.held

    acquired = property(is_still_owner)

    @property
    def fencing_token(self) -> int:
        """An int that grows with every hold of this lock; 0 while it is not held."""
        return self._lock.fencing_token

    def heartbeat(self) -> bool:
        """Send the driver's heartbeat; returns whether the lock is held."""
        self._heartbeat()
        return self._lock.held


@dataclass(slots=True)
class _Candidacy:
    """This member wants to lead a group."""

    hold: Hold
    """Of the leader's lock."""
    announced: int = 0
    """The token of the leadership that the watchers were told of last."""


class _LastRead(threading.local):
    """The members that a thread last read, by group: if it watches then, its watchers are told what has changed."""

    def __init__(self) -> None:
        self.members: dict[bytes, set[bytes]] = {}


def _in_turn(method: Callable[..., Any]) -> Any:
    """A method of the driver that one thread at a time runs; watchers that it calls may call it again."""

    @wraps(method)
    def call(driver: RayDriver, *args: Any, **kwargs: Any) -> Any:
        with driver._watching:
            return method(driver, *args, **kwargs)

    return call


class RayDriver(coordination.CoordinationDriverCachedRunWatchers):
    """tooz's driver on one member's session with the partition actor.

    What it claims in `CHARACTERISTICS`, and why (tests/tooz tests each claim):

    - DISTRIBUTED_ACROSS_THREADS: any thread may call any method. The session's lock guards the driver's state. Threads
      take turns to start and stop the driver, to join and leave one group, and to run and change the watchers of joins
      and leaves; so such a watcher must not wait for another thread that does the last of these.
    - DISTRIBUTED_ACROSS_PROCESSES, DISTRIBUTED_ACROSS_HOSTS: all shared state is in one actor, which every process on
      every node of the Ray cluster can call.
    - SEQUENTIAL, and so CAUSAL: a call returns when the partition actor has done what was asked, and it handles the
      requests of a session in their order.

    It does not claim NON_TIMEOUT_BASED, because a process that is cut off is out when its lease ends; nor LINEARIZABLE
    and those about partitions, because a partition actor that has been replaced and does not know it yet may answer a
    reader with old members. Locks and leaders are exact even then (rules 8 and 10 of ``docs/guarantees.md``).
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
        super().__init__(member_id, parsed_url, options)  # type: ignore[arg-type]
        self.url = url = RayUrl.of(parsed_url, options)
        transport = RayTransport(url.name, url.namespace)
        self._session = Session(self._text_id, transport, url.settings, self._on_changes)
        self._living = threading.RLock()
        """Held to start and to stop."""
        self._watching = threading.RLock()
        """Held to run or change the watchers of joins and leaves."""
        self._last_read = _LastRead()
        self._joined: dict[str, tuple[bytes, _Told]] = {}
        """The groups that the program has joined: by name, tooz's group id and what this member tells of itself."""
        self._changing: set[str] = set()
        """Groups that a thread is joining, leaving or telling of new capabilities."""
        self._candidacies: dict[bytes, _Candidacy] = {}
        """By group; only groups whose election is watched."""
        self._last_heartbeat = clock.now()
        self._silence_check: Any = None
        self._stopping = False

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self, start_heart: bool = False) -> None:
        """Connect; with `start_heart`, call `heartbeat` in a thread. Raises ``ToozError``, also when it is started."""
        with self._living:
            super().start(start_heart)

    def _start(self) -> None:
        try:
            connect_to_ray(self.url)
            deploy(self.url.name, self.url.namespace, self.url.deploy_settings)
        except (PartitionError, RayError) as error:
            raise coordination.ToozConnectionError(str(error)) from error
        self._last_heartbeat = clock.now()
        self._session.start()
        failure = self._session.failure
        if failure is not None:
            self._session.stop()
            raise coordination.ToozConnectionError(str(failure))
        self._silence_check = run_in_background(self._expire_when_silent())

    def stop(self) -> None:
        """Leave all groups and disconnect. Raises ``ToozError`` when it is not started."""
        with self._living:
            self._stopping = True
            try:
                super().stop()
            finally:
                self._stopping = False

    def _stop(self) -> None:
        self._silence_check.cancel()
        self._session.stop()
        with self._session.lock:
            self._candidacies.clear()
            self._joined.clear()

    @tooz_errors()
    def heartbeat(self) -> float:
        """Keep this member's groups and locks, and rejoin lost groups; returns the seconds until the next call is due.

        Raises ``ToozError`` when a group could not be rejoined, after it has tried all.
        """
        self._last_heartbeat = clock.now()
        failure: Exception | None = None
        for group in self._lost_groups():
            try:
                with self._alone_in(group):
                    joined = self._lost_groups().get(group)
                    if joined is not None:
                        log.warning("member %r rejoins group %r: heartbeat() came late", self._text_id, group)
                        self._join(*joined)
            except (PartitionError, tooz.ToozError) as error:
                failure = error
        if failure is not None:
            raise failure
        return min(self.url.membership_timeout, self.url.lock_timeout)

    def _lost_groups(self) -> dict[str, tuple[bytes, _Told]]:
        """Those of `_joined` that this member is out of; none while it stops, or a heart that fails would never end."""
        present = ("joining", "member", "superseded")
        with self._session.lock:
            if self._stopping:
                return {}
            return {name: joined for name, joined in self._joined.items() if self._session.state(name) not in present}

    async def _expire_when_silent(self) -> None:
        """Leave the groups and lose the locks when the program does not call `heartbeat` in time."""
        session, timeouts = self._session, (self.url.membership_timeout, self.url.lock_timeout)
        while True:
            silence = clock.now() - self._last_heartbeat
            with session.lock:
                left = [group for group in self._joined if silence >= timeouts[0] and not session.is_out(group)]
                for group in left:
                    session.member_state.leave(group)
                lost = silence >= timeouts[1] and session.member_state.locks.held()
                if lost:
                    session.member_state.locks.lapse()
            if left or lost:
                session.send_now()
            ahead = [timeout - silence for timeout in timeouts if timeout > silence]
            await asyncio.sleep(min(ahead, default=SILENCE_CHECK_INTERVAL))

    def _on_changes(self, changes: list[Change]) -> None:
        with self._session.lock:
            for change in changes:
                # tooz's run_watchers forgets a group that this member was out of, so note that it is in it again.
                if change.rejoined and change.group in self._joined:
                    self._joined_groups.add(self._joined[change.group][0])

    # -- groups -------------------------------------------------------------------------------------------------

    @completed
    def create_group(self, group_id: bytes) -> None:
        """Make a group. Raises ``GroupAlreadyExist``."""
        if not self._session.ask_now("make_group", text_of(group_id)):
            raise coordination.GroupAlreadyExist(group_id)

    @completed
    def delete_group(self, group_id: bytes) -> None:
        """Delete an empty group. Raises ``GroupNotEmpty`` and ``GroupNotCreated``."""
        if not self._ask("delete_group", group_id):
            raise coordination.GroupNotEmpty(group_id)

    def _destroy_group(self, group_id: bytes) -> None:
        """Delete a group and its members, as tooz's tests ask of a driver."""
        for member in self._ask("get_members", group_id):
            self._ask("drain", group_id, member)
        self._ask("delete_group", group_id)

    @completed
    def get_groups(self) -> list[bytes]:
        """The ids of all groups."""
        return [self._id(name) for name in self._session.ask_now("get_groups")]

    @completed
    def join_group(self, group_id: bytes, capabilities: Any = None) -> None:
        """Join a group. Raises ``GroupNotCreated`` and ``MemberAlreadyExist``."""
        group, told = text_of(group_id), _packed(capabilities)
        with self._alone_in(group):
            if not self._session.is_out(group):
                raise coordination.MemberAlreadyExist(group_id, self._member_id)
            self._join(group_id, told)

    def _join(self, group_id: bytes, told: _Told) -> None:
        group, session = text_of(group_id), self._session
        with session.lock:
            session.check_active()
            session.forget_failure()
            session.member_state.join(group, *told, exclusive=False, conditional=True)
        session.send_now()
        session.wait(lambda: session.state(group) != "joining" or isinstance(session.failure, GroupFull))
        with session.lock:
            session.check_active()
            state = session.state(group)
            if state == "member":
                self._joined[group] = group_id, told
                self._joined_groups.add(group_id)
                return
            session.member_state.groups.pop(group, None)
        if state == "missing":
            raise coordination.GroupNotCreated(group_id)
        if state in ("taken", "superseded"):
            raise coordination.MemberAlreadyExist(group_id, self._member_id)
        if state == "conflict":
            raise tooz.ToozError(f"group {group!r} is exclusive: only a PartitionCoordinator can join it")
        session.send_now()
        raise session.failure or self._unconfirmed(f"this member joined {group!r}")

    @completed
    def leave_group(self, group_id: bytes) -> None:
        """Leave a group, or drain the member that has this id there; every later answer shows it.

        Raises ``MemberNotJoined`` and ``GroupNotCreated``.
        """
        group, session = text_of(group_id), self._session
        with self._alone_in(group):
            with session.lock:
                self._joined.pop(group, None)
                self._joined_groups.discard(group_id)
                is_out = session.is_out(group)
                if not is_out:
                    session.member_state.leave(group)
            if not is_out:
                session.send_now()
                if not session.wait(lambda: session.is_out(group)):
                    raise self._unconfirmed(f"this member left {group!r}")
            elif self._text_id in self._ask("get_members", group_id):
                self._ask("drain", group_id, self._text_id)
            else:
                raise coordination.MemberNotJoined(group_id, self._member_id)

    @contextmanager
    def _alone_in(self, group: str) -> Iterator[None]:
        """Let one thread at a time change this member's place in a group."""
        wakeups = self._session.wakeups
        with wakeups.lock:
            wakeups.wait(lambda: group not in self._changing, None)
            self._changing.add(group)
        try:
            yield
        finally:
            with wakeups.lock:
                self._changing.remove(group)
                wakeups.wake()

    @completed
    def get_members(self, group_id: bytes) -> set[bytes]:
        """The ids of a group's members. Raises ``GroupNotCreated``."""
        members = {self._id(member) for member in self._ask("get_members", group_id)}
        self._last_read.members[group_id] = members
        return set(members)

    def _init_watch_group(self, group_id: bytes) -> None:
        # A program that reads the members and then watches must be told who joined in between (gnocchi#185).
        if group_id not in self._group_members:
            read = self._last_read.members.get(group_id)
            members = self.get_members(group_id).get()
            self._group_members[group_id] = members if read is None else read

    @completed
    def get_member_capabilities(self, group_id: bytes, member_id: bytes) -> Any:
        """The capabilities of a member. Raises ``MemberNotJoined`` and ``GroupNotCreated``.

        Raises ``SerializationError`` when this process cannot unpickle them.
        """
        found = self._ask("get_metadata", group_id)
        if text_of(member_id) not in found:
            raise coordination.MemberNotJoined(group_id, member_id)
        try:
            return _unpacked(found[text_of(member_id)])
        except Exception as error:
            raise SerializationError(
                f"the capabilities of {member_id!r} in group {group_id!r} cannot be unpickled here: {error!r}"
            ) from error

    @completed
    def get_members_with_capabilities(self, group_id: bytes) -> dict[bytes, Any]:
        """The capabilities of all members, by id; None where this process cannot unpickle them.

        Raises ``GroupNotCreated``.
        """
        found: dict[bytes, Any] = {}
        for member, metadata in self._ask("get_metadata", group_id).items():
            try:
                found[self._id(member)] = _unpacked(metadata)
            except Exception:
                found[self._id(member)] = None
        return found

    @completed
    def get_member_info(self, group_id: bytes, member_id: bytes) -> dict[str, Any]:
        """``{"capabilities": ...}`` of a member."""
        return {"capabilities": self.get_member_capabilities(group_id, member_id).get()}

    @completed
    def update_capabilities(self, group_id: bytes, capabilities: Any) -> None:
        """Change this member's capabilities; every later answer has the new ones. Raises ``MemberNotJoined``."""
        group, told, session = text_of(group_id), _packed(capabilities), self._session
        with self._alone_in(group):
            with session.lock:
                is_member = group in self._joined and session.state(group) == "member"
                if is_member:
                    member_state = session.member_state
                    member_state.join(group, *told)
                    seq = member_state.want_reply()
                    self._joined[group] = group_id, told
            if not is_member:
                self._ask("get_members", group_id)
                raise coordination.MemberNotJoined(group_id, self._member_id)
            session.send_now()
            if not session.wait(lambda: member_state.answered >= seq):
                raise self._unconfirmed("capabilities changed")

    def _unconfirmed(self, what: str) -> PartitionActorUnavailable:
        seconds = self._session.call_timeout
        return PartitionActorUnavailable(f"the partition actor did not confirm within {seconds} s that {what}")

    def _id(self, text: str) -> Any:
        """An id in the type of this driver's own."""
        return text if isinstance(self._member_id, str) else text.encode()

    def _ask(self, method: str, group_id: bytes, *arguments: Any) -> Any:
        try:
            return self._session.ask_now(method, text_of(group_id), *arguments)
        except GroupNotFound:
            raise coordination.GroupNotCreated(group_id) from None
        except MemberNotFound:
            raise coordination.MemberNotJoined(group_id, arguments[0]) from None

    # -- watchers, leaders, locks -------------------------------------------------------------------------------

    # One thread at a time, so that each change is told once and in order.
    watch_join_group = _in_turn(coordination.CoordinationDriverCachedRunWatchers.watch_join_group)
    unwatch_join_group = _in_turn(coordination.CoordinationDriverCachedRunWatchers.unwatch_join_group)
    watch_leave_group = _in_turn(coordination.CoordinationDriverCachedRunWatchers.watch_leave_group)
    unwatch_leave_group = _in_turn(coordination.CoordinationDriverCachedRunWatchers.unwatch_leave_group)
    join_partitioned_group = _in_turn(coordination.CoordinationDriverCachedRunWatchers.join_partitioned_group)

    def run_watchers(self, timeout: float | None = None) -> list[Any]:
        """Call the watchers of what has changed; become a candidate in groups whose election is watched."""
        with self._watching:
            results = super().run_watchers(timeout)
        return results + self._elect()

    def run_elect_coordinator(self) -> None:
        """Become a candidate in groups whose election is watched; call the watchers of those that this member leads."""
        self._elect()

    @tooz_errors()
    def _elect(self) -> list[Any]:
        session, results = self._session, []
        with session.lock:
            watched = list(self._hooks_elected_leader)
        for group_id in watched:
            with session.lock:
                candidacy = self._candidacy(group_id)
                if candidacy is None:
                    continue
                known = candidacy.hold.send()
            session.wait(known)
            with session.lock:
                token = candidacy.hold.token
                is_new = token not in (0, candidacy.announced)
                candidacy.announced = token or candidacy.announced
                hooks = coordination.Hooks(self._hooks_elected_leader.get(group_id, ()))
            if is_new:
                results += hooks.run(coordination.LeaderElected(group_id, self._member_id))
        return results

    def _candidacy(self, group_id: bytes) -> _Candidacy | None:
        """The one candidacy in a group; None when its election is not watched. Call it under the session's lock."""
        if not self._hooks_elected_leader.get(group_id):
            return None
        candidacy = self._candidacies.get(group_id)
        state = None if candidacy is None else candidacy.hold.state
        if candidacy is None or state is None:
            candidacy = self._candidacies[group_id] = _Candidacy(Hold(self._session, leader_name(text_of(group_id))))
        elif state not in ("waiting", "held"):
            candidacy.hold.renew()
        return candidacy

    def watch_elected_as_leader(self, group_id: bytes, callback: Any) -> None:
        """Be a candidate from the next `run_watchers` on, which calls `callback` when this member is elected."""
        with self._session.lock:
            super().watch_elected_as_leader(group_id, callback)

    def unwatch_elected_as_leader(self, group_id: bytes, callback: Any) -> None:
        """Stop watching. A member that watches no election of a group is no candidate and does not lead it."""
        with self._session.lock:
            super().unwatch_elected_as_leader(group_id, callback)
            if group_id not in self._hooks_elected_leader and group_id in self._candidacies:
                self._candidacies.pop(group_id).hold.drop()

    def stand_down_group_leader(self, group_id: bytes) -> bool:
        """Let the next candidate lead, and become the last candidate. Returns whether this member was the leader."""
        with self._session.lock:
            candidacy = self._candidacies.get(group_id)
            if candidacy is None or not candidacy.hold.held:
                return False
            candidacy.hold.renew()
            known = candidacy.hold.send()
        self._session.wait(known)
        return True

    @completed
    def get_leader(self, group_id: bytes) -> Any:
        """The id of the group's leader, or None."""
        leader = self._ask("get_leader", group_id)
        return None if leader is None else self._id(leader[0])

    def get_lock(self, name: bytes) -> RayLock:
        """A lock; see ``RayLock``."""
        return RayLock(name, Lock(self._session, text_of(name)), self.heartbeat)
