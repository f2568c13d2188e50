"""The partition actor as an asyncio Ray actor: the shell around ``core.driver``.

It adds what a state machine must not have: the clock, waiting, the death watch and the question to the GCS.

Arguments and replies are builtins, so whoever holds the handle can call it without importing this library. Every method
is safe to repeat. Bad arguments raise ``InvalidArgument`` and do not disturb other callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Coroutine, Set
from functools import partial
from typing import Any, TypeVar

import ray

from partition_actor import arguments, clock
from partition_actor.actor.actor_metrics import ActorMetrics
from partition_actor.actor.bare_callers import BareCallers, Caller
from partition_actor.actor.death_watch import Death, DeathWatch, alive_nodes
from partition_actor.actor.draining_nodes import DrainingNodes
from partition_actor.actor.event_log import EventLog
from partition_actor.actor.fleets import Fleets
from partition_actor.actor.load import Load
from partition_actor.actor.member_handles import MemberHandles
from partition_actor.actor.predecessor import Records, was_restarted
from partition_actor.actor.ring_shares import RingShares
from partition_actor.actor.subsets import Subsets
from partition_actor.actor.timer_wheel import TimerWheel, fire
from partition_actor.core.driver import STATE, MembershipDriver, Steps
from partition_actor.core.epochs import Epoch, incarnation_at
from partition_actor.core.events import AT_ONCE, Where
from partition_actor.core.group import Group
from partition_actor.core.membership import Membership
from partition_actor.core.messages import MINOR, PROTOCOL, Reply, SessionKey, ViewMessage, check_request, leader_name
from partition_actor.core.share import Share
from partition_actor.core.status import add_shares, group_status_of, status_of
from partition_actor.core.views import View
from partition_actor.errors import PartitionActorUnavailable, PartitionError
from partition_actor.metadata import pack_metadata, readable_metadata
from partition_actor.metrics import Recorder
from partition_actor.processes import ProcessIdentity
from partition_actor.settings import Settings, to_tell
from partition_actor.version import __version__

log = logging.getLogger(__name__)

T = TypeVar("T")

COLLECT_AFTER = (2_000, 1_000_000, 1_000_000)
"""Allocations before Python searches the youngest objects for cycles, and after how many such searches it searches
older ones. The first takes 2 ms. The others take 40 ms with 300 members of 1,000 groups each, so they are left to
`COLLECT_EVERY`."""
COLLECT_EVERY = 3600.0
"""Seconds between two searches of all objects. Nothing here makes cycles on purpose."""

SWITCH_AFTER = 0.0005
"""Seconds after which the event loop lets another thread run. Threads of Ray's unpack calls and pack answers: with
Python's default of 5 ms a call takes 20 ms and more while the loop is busy, however short its steps are."""

TOLD_IN_A_TURN = 64
"""Groups of which the held heartbeats tell that are answered in one turn of the event loop; an answer counts for 8 at
least. That takes some milliseconds."""
ANSWER_EVERY = 0.001
"""Seconds between two such turns. A thread of Ray's packs the answers, 0.1 ms each, and then takes other calls in."""

REPLACED_WITHIN = 20.0
"""Seconds after which a partition actor that has handed over, and that nobody has ended, ends by itself."""

OBSERVED = 20
"""Groups of which `observe` tells."""


def _driver_with(begin: Callable[..., Membership], state: dict[str, Any]) -> MembershipDriver:
    """One that goes on with what was handed over, or that waits for its members as after a crash."""
    try:
        driver = MembershipDriver(begin(state=state))
        driver.take_over(clock.now(), state)
    except Exception:
        log.exception("what the former partition actor handed over cannot be used: this one begins as after a crash")
        return MembershipDriver(begin())
    return driver


class PartitionActor:
    """Knows which members are alive and which keys each owns. Deploy it with ``partition_actor.deploy()``."""

    # Set by `_start`.
    _node: str
    _pending: ray.ObjectRef[Any]
    _watch: DeathWatch
    _handles: MemberHandles
    _callers: BareCallers
    _event_log: EventLog

    def __init__(
        self, name: str | None = None, settings: dict[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        # An actor whose constructor raises is dead for good, so calls raise the error instead.
        self._failure: PartitionError | None = None
        self._name = name
        try:
            self._deployed = Settings.from_dict(settings or {})
        except PartitionError as error:
            self._failure, self._deployed = error, Settings()
        self._driver: MembershipDriver | None = None
        self._held: dict[SessionKey, asyncio.Future[None]] = {}
        self._to_answer: dict[SessionKey, None] = {}
        """Held heartbeats that have news, in the order of their answers."""
        self._load = Load()
        self._wheel = TimerWheel()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._shares: dict[SessionKey, dict[str, tuple[tuple[Epoch, int], Share]]] = {}
        """Of bare callers, by group: the version of the latest view, and the share by it."""
        self._subsets = Subsets()
        self._ring_shares = RingShares(self._deployed)
        self._fleets = Fleets()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._proof_wanted = asyncio.Event()
        self._namespace = namespace
        self._records = Records(name, namespace)
        self._recorded = 0.0
        """Seconds: the longest lease of which there is a record."""
        self._unrecorded: dict[int, Settings] = {}
        """By version, settings that it took over, and of before, which it needs again when Ray restarts it."""
        self._former_settled = False
        self._configuring = asyncio.Lock()
        self._settings_version = 0
        """How often the settings have changed."""
        self._ends = False
        """Whether it has been asked to end in good order."""

    # -- workers ------------------------------------------------------------------------------------------------

    async def get_subset(
        self, group: str, member_id: str, items: Any, weight: int = 1, session: Any = None, actor: Any = None
    ) -> Any:
        """Those of `items` that this member owns, in their order, each as often as it was given.

        `items` is a list or another iterable, a one-dimensional array of numpy or Arrow, or a reference to one, which
        Ray resolves before the call. An array is answered with an array of its kind, anything else with a list. Long
        ones are looked at in slices, and other callers are served meanwhile.

        Joins if necessary (a new group is not exclusive), counts as a heartbeat, and ends the caller's earlier subset.
        A call that failed may have run, so it ends it too. In an exclusive group the reply is valid for one `ttl` from
        the moment of the call: by then the caller must have called again or have stopped working. Keys that another
        member has yet to hand over are left out. Waits while the partition actor recovers from a crash, at most one
        longest lease. A reply that comes after its `ttl` is empty. Raises ``InvalidArgument``, ``GroupFull``, and
        ``PartitionActorUnavailable`` while the partition actor is being shut down.

        A caller that is a Ray actor hands itself over as `actor`, with ``ray.get_runtime_context().current_actor``. Its
        death is then known in milliseconds, a ``Router`` can call it, and its next process takes its place when Ray
        restarts it: in an exclusive group once the former one is known dead or its reply is over. If Ray lost the node
        of the former one, each call waits until the reply before it is over, unless `session` is the worker id,
        ``ray.get_runtime_context().get_worker_id()``. That is best for every actor that Ray may restart.
        """
        driver, key = self._start(), self._key(member_id, session)
        arguments.check_text("group", group)
        arguments.check_weight(weight)
        arguments.check_keys(items)
        until = clock.now() + self._settings.ttl
        caller = await self._callers.identify(key, arguments.check_caller(actor))
        steps = driver.get_subset(group, key, weight, process=caller.process, where=_where(caller.identity))
        view = await self._call(steps, key, caller)
        mine = await self._subsets.of(self._share(group, key, view), items, (group, key))
        if view is not None and view["exclusive"] and clock.now() >= until:  # nobody may work by it any more
            return mine[:0]
        return mine

    async def join(
        self,
        group: str,
        member_id: str,
        weight: int = 1,
        metadata: dict[str, Any] | None = None,
        exclusive: bool | None = None,
        session: Any = None,
        actor: Any = None,
    ) -> dict[str, Any]:
        """Become a member; creates the group if necessary, exclusive if the call says so. Returns the view::

            {"epoch": (incarnation, counter), "token": int, "exclusive": bool, "members": {member_id: weight}}

        `metadata` is for `get_metadata`: builtins, because this process may not be able to import other classes, and at
        most 64 KiB when pickled. None keeps what an earlier join said. `actor`: as for `get_subset`.

        Raises ``InvalidArgument``, ``GroupModeConflict`` and ``GroupFull``.
        """
        driver, key = self._start(), self._key(member_id, session)
        arguments.check_text("group", group)
        arguments.check_weight(weight)
        arguments.check_mode(exclusive)
        packed = pack_metadata(metadata)
        caller = await self._callers.identify(key, arguments.check_caller(actor))
        where = _where(caller.identity)
        return await self._call(driver.join(group, key, weight, packed, exclusive, caller.process, where), key, caller)

    async def heartbeat(self, member_id: str, session: Any = None, actor: Any = None) -> dict[str, Any]:
        """Renew the lease. Returns ``{"groups": {group: epoch}, "next": seconds, "known": bool}``.

        The next heartbeat is due in `next` seconds. `known` is False for a member that has expired or never joined.
        `actor`: as for `get_subset`. Raises ``InvalidArgument``.
        """
        driver, key = self._start(), self._key(member_id, session)
        if arguments.check_caller(actor) is not None and key not in self._callers:
            self._adopt(key, await self._callers.identify(key, actor))
        self._load.heartbeat(clock.now(), None)
        reply = driver.heartbeat(clock.now(), key)
        self._act()
        return reply

    async def leave(self, group: str, member_id: str, session: Any = None) -> None:
        """Leave a group after having stopped working; returns once the new epoch is published. May be repeated.

        Raises ``InvalidArgument`` and ``GroupNotFound``.
        """
        driver, key = self._start(), self._key(member_id, session)
        arguments.check_text("group", group)
        await self._call(driver.change("leave", group, key))

    async def sync(self, request: dict[str, Any], watch: dict[str, Any] | None = None) -> Reply | None:
        """The heartbeat of a ``PartitionCoordinator``; see ``core.messages``. Held until there is news or one is due.

        `watch` has the fields of a ``processes.ProcessIdentity``. Returns None if a later request of the session has
        overtaken this one.
        """
        driver, checked = self._start(), check_request(request)
        arguments.check_watch(watch)
        if driver.is_handed_over:
            await self.pend()  # the end of this process tells the member to look for the next one
        key: SessionKey = (checked["member"], checked["session"])
        self._load.heartbeat(clock.now(), driver.heartbeat_due(key))
        identity = ProcessIdentity.of(watch) if watch else None
        seconds = driver.request(clock.now(), checked, _where(identity))
        if seconds is None:
            return None
        overtaken = self._held.pop(key, None)
        if overtaken is not None:
            fire(overtaken)
        timer = None
        if seconds:  # before `_act`, which may have news for this very heartbeat
            timer = self._held[key] = self._wheel.timer(seconds * random.uniform(0.9, 1.0))
        if identity is not None and driver.is_accepted(key):
            self._handles.register(key, identity.handle)
            self._watch.watch(key, identity)
            if driver.has_joined(key):
                self._watch.succeed(key)
        if driver.has_actions:
            self._act()
        if timer is not None:
            try:
                await timer
            finally:
                if self._held.get(key) is timer:
                    del self._held[key]
            if driver.is_handed_over:
                await self.pend()
        return driver.reply(clock.now(), key, checked["seq"])

    async def close_session(self, member_id: str, session: Any = None) -> None:
        """End a session that has stopped working and will not return."""
        driver, key = self._start(), self._key(member_id, session)
        driver.close(clock.now(), key)
        self._act()

    # -- everybody ----------------------------------------------------------------------------------------------

    async def get_members(self, group: str) -> list[str]:
        """The ids of a group's members, sorted. Raises ``InvalidArgument`` and ``GroupNotFound``."""
        return sorted((await self._find(group)).members)

    async def get_metadata(self, group: str) -> dict[str, Any]:
        """``{member_id: metadata}`` of a group's members; None for one that gave none.

        Metadata that consists of None, bool, int, float, str, bytes, bytearray, list, tuple, dict, set and frozenset is
        as it was given. Other metadata is bytes: ``pickle.loads`` it in a process that can import its classes. So no
        member's class can make this call fail. Raises ``InvalidArgument`` and ``GroupNotFound``.
        """
        found = await self._find(group)
        return {
            member: readable_metadata(found.participants[member, session].metadata)
            for member, session in sorted(found.sessions.items())
            if (member, session) in found.participants
        }

    async def get_groups(self) -> list[str]:
        """The names of the groups that have or recently had members, sorted."""
        return sorted(self._start().membership.groups)

    async def get_owner(self, group: str, key: Any) -> str | None:
        """The id of the member that owns `key` on the ring; None in a group without members.

        In an exclusive group the hand-off to it may be under way. Raises ``InvalidArgument`` and ``GroupNotFound``.
        """
        return (await self._find(group)).ring().owner(key)

    async def get_leader(self, group: str) -> SessionKey | None:
        """``(member_id, session)`` of the session that leads a group, or None. Raises ``InvalidArgument``."""
        return await self._call(self._start().get_leader(arguments.check_text("group", group)))

    async def get_actors(self, group: str, since: int = -1) -> dict[str, Any]:
        """The handles of a group's members that are actors; they keep no actor alive. Returns::

            {"actors": {member_id: handle}, "upto": int, "complete": bool}

        With the `upto` of an earlier reply as `since`, returns only later registrations. Not `complete` while members
        have yet to report, after a crash or after it was replaced. Raises ``InvalidArgument`` and ``GroupNotFound``.
        """
        membership = self._start().membership
        found = membership.find(arguments.check_text("group", group))
        since = arguments.check_number("since", since)
        return self._handles.of(found, since, complete=membership.have_reported(found))

    async def status(self, group: str | None = None) -> dict[str, Any]:
        """The state for operators, as builtins, with a summary of each group.

        With a `group`, returns what is known of that group and of each of its members: its share of the ring, lease,
        acknowledged epoch and whom it waits for. ``core.status`` has the fields. Raises ``InvalidArgument`` and
        ``GroupNotFound``.
        """
        driver = self._start()
        driver.timer(clock.now())
        self._act()
        if group is not None:
            (details,) = await self._details([driver.membership.find(arguments.check_text("group", group))])
            return details
        return self._status()

    async def events(self, since: int = 0, group: str | None = None, limit: int = AT_ONCE) -> dict[str, Any]:
        """What has changed, when and why, oldest first: the latest 10,000 changes are kept. Returns::

            {"events": [event, ...], "next": int, "missed": int, "more": bool}

        `next` is the `since` of the next call, and `more` says that there is something for it. At most `limit` events,
        and with a `group` only that group's. `missed`: how many changes since `since` are kept no more; -1 if another
        partition actor counted `since`, so that nobody knows. An event is::

            {"id": int, "time": Unix seconds, "what": str, "group": str | None, "epoch": (int, int) | None,
             "member": str | None, "session": str | None, "node": str | None, "pid": int | None, "lock": str | None,
             "why": str, "seconds": float | None}

        `core.events` lists each `what`. `seconds`: how long a hand-off took (handed_over) or lasts (fenced), how long
        it took to be certain (died), and the age of the last heartbeat (expired). Raises ``InvalidArgument``.
        """
        membership = self._start().membership
        arguments.check_number("since", since, 0)
        arguments.check_number("limit", limit, 1, AT_ONCE)
        if group is not None:
            arguments.check_text("group", group)
        return membership.events.read(since, group, limit, time.time() - clock.now())

    async def observe(self, groups: Any = (), since: int = 0) -> dict[str, Any]:
        """What a screen shows, in one call: ``{"status": ..., "groups": {group: ...}, "events": ..., "fleets": ...}``.

        They are what `status()` and `status(group)` say, `events(since)` and `fleets()`. Of a group that is not known,
        None. At most 20 groups. Raises ``InvalidArgument``.
        """
        if not isinstance(groups, (list, tuple)) or len(groups) > OBSERVED:
            arguments.refuse("groups", groups, f"a list of at most {OBSERVED} groups")
        names = [arguments.check_text("groups, a group", name) for name in groups]
        status = await self.status()
        told = await self.events(since)  # nothing comes between: all three tell of the same moment
        known = {name: group for name in names if (group := self._start().membership.groups.get(name)) is not None}
        details = dict(zip(known, await self._details(list(known.values())), strict=True))
        return {
            "status": status,
            "groups": {name: details.get(name) for name in names},
            "events": told,
            "fleets": self._fleets.told(clock.now()),
        }

    async def fleets(self, name: str | None = None) -> dict[str, Any]:
        """``{name: status}`` of the fleets, as their controllers told last; with a `name`, of that one if it is there.

        A status is what ``Fleet.status()`` returns, of at most 500 workers, with ``seconds_ago``: when it was told. A
        fleet that is over, or of which nobody has told for 30 s, is left out. Raises ``InvalidArgument``.
        """
        self._start()
        if name is not None:
            arguments.check_text("name", name)
        return self._fleets.told(clock.now(), name)

    async def note_fleet(self, status: dict[str, Any]) -> None:
        """Keep the status of a fleet for whoever looks; its controller calls this. At most 1,000 fleets.

        Raises ``InvalidArgument``, also when the status is larger than 1 MiB, or all are larger than 32 MiB.
        """
        self._start()
        self._fleets.note(clock.now(), status)

    async def hello(self) -> dict[str, Any]:
        """Versions and settings: what `connect` checks. Without `minor`, it is 0."""
        self._start()
        return {
            "version": __version__,
            "protocol": PROTOCOL,
            "minor": MINOR,
            "state": STATE,
            **to_tell(self._settings),
            "settings_version": self._start().membership.settings_version,
        }

    # -- operators ----------------------------------------------------------------------------------------------

    async def configure(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Change some settings while it runs; returns all of them. No key moves, and no lease that runs gets shorter.

        Members hear of it by their next heartbeat. The change outlasts a crash of the partition actor, and ends with
        it: the next ``deploy()`` brings its own settings. A caller of ``get_subset`` in an exclusive group keeps a
        lease of the longest `ttl` that there was.

        Raises ``InvalidSettings``, which names each field that cannot change while it runs, and
        ``PartitionActorUnavailable`` when the GCS does not confirm the record, or while it is being shut down.
        """
        driver = self._start()
        async with self._configuring:
            settings = self._settings.changed(changes)
            if settings != self._settings:
                self._settings_version += 1
                if not self._records.are_kept and settings.ttl > driver.membership.longest_allowed:
                    raise PartitionActorUnavailable("the ttl cannot grow: the GCS keeps no record of longer leases")
                if self._records.are_kept and not await self._records.add_settings(
                    self._settings_version, settings.to_dict()
                ):
                    raise PartitionActorUnavailable("the settings were not changed: the GCS does not answer; try again")
                await self._call(driver.configure(settings, self._settings_version))
                self._proof_wanted.set()  # leases may be shorter now than the interval between two proofs was
        return settings.to_dict()

    async def forget(self, group: str, member_id: str) -> Epoch | None:
        """Take a member off the ring now, whatever its lease; returns the new epoch. If it is alive, it rejoins.

        In an exclusive group its keys wait until its lease has ended, because an operator's word proves nothing. Raises
        ``InvalidArgument``, ``GroupNotFound`` and ``MemberNotFound``.
        """
        return await self._change("forget", group, member_id)

    async def drain(self, group: str, member_id: str) -> Epoch | None:
        """Make a member hand its keys over and leave; returns the new epoch. It stays out until it joins again.

        Raises ``InvalidArgument``, ``GroupNotFound`` and ``MemberNotFound``.
        """
        return await self._change("drain", group, member_id)

    async def make_group(self, group: str) -> bool:
        """Create a group that stays, even without members, until it is deleted; False if it exists already.

        A crash of the partition actor forgets it if it has no members. Raises ``InvalidArgument``.
        """
        made = self._start().make_group(clock.now(), arguments.check_text("group", group))
        self._act()
        return made

    async def delete_group(self, group: str) -> bool:
        """Delete a group; False if it has members. Raises ``InvalidArgument`` and ``GroupNotFound``."""
        return await self._call(self._start().delete_group(arguments.check_text("group", group)))

    async def break_lock(self, name: str) -> int:
        """Take a lock, by its name in the protocol, from its holders; returns their number.

        Returns once each holder knows or has lost its lease. Raises ``InvalidArgument``.
        """
        limit = arguments.MAX_ID_BYTES + len(leader_name(""))  # names in the protocol have a prefix
        return await self._call(self._start().break_lock(arguments.check_text("name", name, limit=limit)))

    async def shut_down(self) -> float:
        """Begin to end in good order, and return; the seconds until this actor is gone, at most. May be repeated.

        From now on it grants nothing: calls that join or renew raise ``PartitionActorUnavailable``. Use
        ``partition_actor.shutdown()``, which waits.
        """
        driver = self._start()
        seconds = driver.end(clock.now())
        if not self._ends:
            self._ends = True
            self._spawn(self._exit_when_settled())
        self._act()
        return seconds

    async def copy_state(self) -> dict[str, Any]:
        """What `hand_over` would leave to the next one, while this one goes on. Waits and raises as `hand_over`."""
        driver = self._start()
        async with self._configuring:  # whoever hears that it has handed over ends it: the GCS must have the state
            state = await self._call(driver.copy_state())
            self._records.check_size(state)
            return state

    async def hand_over(self, settings: dict[str, Any] | None = None) -> None:
        """Leave the whole state to the next partition actor of this name, and do nothing any more: rule 13.

        Whoever deploys the next one, it runs with these `settings`; None: with the present ones.

        Use ``partition_actor.deploy(replace=True)``, which ends this one then and starts the next. If nobody does that,
        this one ends by itself, and Ray restarts it with the state. Waits while it recovers from a crash. May be
        repeated. Raises ``InvalidSettings``, and ``PartitionActorUnavailable`` when the GCS does not answer or counts
        this node as dead, or while it is being shut down.
        """
        driver, records = self._start(), self._records
        wanted = None if settings is None else Settings.from_dict(settings)
        async with self._configuring:
            if driver.is_handed_over:
                return
            if not records.are_kept:
                raise PartitionActorUnavailable("this partition actor cannot hand over: the GCS keeps no records of it")
            try:  # after the next step there is no way back
                known = await asyncio.wait_for(asyncio.to_thread(records.known), self._settings.ttl)
            except Exception as error:
                raise PartitionActorUnavailable(
                    f"the GCS does not answer ({error!r}): nothing was handed over"
                ) from None
            if not await self._counts_as_alive():  # then one of the known lives may have this one's place
                raise PartitionActorUnavailable("the GCS does not count this node as alive: nothing was handed over")
            state = await self._call(driver.hand_over())
            state["by"], state["next"] = self._own_id(), (wanted or self._settings).to_dict()
            for task in self._tasks:
                task.cancel()
            self._event_log.flush()
            await records.hand_over(STATE, known, state)
            log.info("partition actor %r has handed over to the next one", self._name)
            asyncio.get_running_loop().call_later(REPLACED_WITHIN, self._end_by_itself)

    # -- insides ------------------------------------------------------------------------------------------------

    async def pend(self) -> None:
        """Never return: the result is the argument that death watches wait for."""
        await asyncio.get_running_loop().create_future()

    async def lend_pending_reference(self) -> list[Any]:
        """A list of one reference that is never ready."""
        self._start()
        return [self._pending]

    def _start(self) -> MembershipDriver:
        """The state machine. The first call creates it, because the event loop does not run before."""
        if self._failure is not None:
            raise self._failure
        if self._driver is None:
            gc.set_threshold(*COLLECT_AFTER)
            sys.setswitchinterval(SWITCH_AFTER)
            changed = self._records.settings() if was_restarted() and self._records.are_kept else {}
            state = self._records.take_over(STATE)
            first = self._deployed  # somebody else may have deployed it meanwhile, with other settings
            if state is not None and state["by"] != self._own_id():
                first = Settings.from_dict(state["next"])
            longest = self._records.longest_lease(first.new_cluster_wait)
            self._node = ray.get_runtime_context().get_node_id()
            incarnation = incarnation_at(time.time())
            if longest is None:
                longest = max(max(each.max_ttl, each.new_cluster_wait) for each in (first, *changed.values()))
            self._settings_version = max(changed, default=0)
            begin = partial(
                Membership,
                changed.get(self._settings_version, first),
                incarnation,
                clock.now(),
                first=longest == 0,
                restarted=longest != 0 and was_restarted(),
                longest=longest,
                records=self._records.are_kept,
                settings_version=self._settings_version,
                longest_told=max(each.ttl for each in (first, *changed.values())),
            )
            self._driver = _driver_with(begin, state) if state is not None else MembershipDriver(begin())
            membership = self._driver.membership
            self._settings_version = version = membership.settings_version
            if membership.longest_told > membership.settings.ttl and not changed:
                longer = membership.settings.changed({"ttl": membership.longest_told})
                self._unrecorded = {version - 1: longer, version: membership.settings}
            elif membership.settings != self._deployed and not changed:
                self._unrecorded = {version: membership.settings}
            self._ring_shares = RingShares(membership.settings)
            self._handles = MemberHandles(incarnation)
            here = ray.get_runtime_context().current_actor  # in a variable: Ray before 2.50 calls only by a kept handle
            self._pending = here.pend.remote()
            self._watch = DeathWatch(self._pending, self._on_ending, self._on_death)
            self._callers = BareCallers(self._watch, self._handles, self._on_replaced, membership.settings.ttl / 2)
            self._event_log = EventLog(membership.events)
            self._load.watch_loop()
            self._spawn(self._keep_proving())
            draining = DrainingNodes(self._on_draining, self._known_to_drain, lambda: self._settings)
            self._spawn(draining.keep_asking())
            recorder = Recorder(actor=self._name or "")
            metrics = ActorMetrics(membership, self._load, self._held, self._fleets, recorder)
            self._spawn(metrics.keep_recording())
            self._act()
        return self._driver

    @property
    def _settings(self) -> Settings:
        """Those that apply now."""
        return self._start().membership.settings

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _exit_when_settled(self) -> None:
        """Wait until nobody may act on a lease, leave a record of that, and end for good: rule 11."""
        await self._call(self._start().settled())
        if await self._records.settle():
            log.info("the partition actor %r has ended in good order", self._name)
        self._event_log.flush()
        # `exit_actor` would wait for the heartbeats that are held, and those who sent them would wait too.
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    @staticmethod
    def _own_id() -> str:
        return str(ray.get_runtime_context().get_actor_id())

    @staticmethod
    def _end_by_itself() -> None:
        log.error("nobody has replaced this partition actor, which has handed over: it is restarted")
        ray.kill(ray.get_runtime_context().current_actor, no_restart=False)

    def _key(self, member_id: object, session: object) -> SessionKey:
        return (arguments.check_text("member_id", member_id), arguments.check_session(session))

    async def _call(self, steps: Steps[T], key: SessionKey | None = None, caller: Caller | None = None) -> T:
        """The result of a call that may wait in the driver; it may make session `key`, of a bare `caller`, a member."""
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._start().begin(clock.now(), waiter, steps)
        self._adopt(key, caller)
        self._act()
        try:
            result = await waiter
        except asyncio.CancelledError:
            self._start().cancel(waiter)
            raise
        self._adopt(key, caller)  # its session may have ended meanwhile, and begun again
        return result

    def _share(self, group: str, key: SessionKey, view: ViewMessage | None) -> Share:
        """What a view lets a bare caller work on, worked out once for each view."""
        if view is None or not view["mine"] or key not in self._start().membership.sessions:
            return Share(key[0])
        shares, version = self._shares.setdefault(key, {}), (view["epoch"], view["rev"])
        if group not in shares or shares[group][0] != version:
            shares[group] = version, Share.by(View.of(view), key[0], self._settings)
        return shares[group][1]

    def _adopt(self, key: SessionKey | None, caller: Caller | None) -> None:
        if key is not None and caller is not None and key in self._start().membership.sessions:
            self._callers.adopt(key, caller)
            if caller.identity is not None:
                self._start().locate(key, caller.identity.node, caller.identity.pid)

    def _status(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "namespace": self._namespace,
            "version": __version__,
            "node": self._node,
            "pid": os.getpid(),
            "watched": len(self._watch),
            "settings": self._settings.to_dict(),
            "heartbeats": self._load.heartbeats,
            "held": len(self._held),
            "late": self._load.late(),
            "longest_step": self._load.longest_step(),
            **status_of(self._start().membership, clock.now()),
        }

    async def _details(self, groups: list[Group]) -> list[dict[str, Any]]:
        """What is known of each of some groups, all of this moment."""
        membership, now = self._start().membership, clock.now()
        details = [group_status_of(membership, group, now) for group in groups]
        shares = [self._ring_shares.of(group) for group in groups]
        for told in details:
            for member in told["members"]:
                member["metadata"] = readable_metadata(member["metadata"])
                member["watched_by"] = self._watch.kind((member["id"], member["session"]))
        for told, share in zip(details, shares, strict=True):
            add_shares(told, await share)
        return details

    async def _find(self, group: str) -> Group:
        return await self._call(self._start().find(arguments.check_text("group", group)))

    async def _change(self, name: str, group: str, member_id: str) -> Epoch | None:
        driver = self._start()
        arguments.check_text("group", group)
        arguments.check_text("member_id", member_id)
        return await self._call(driver.change(name, group, member_id))

    def _on_ending(self, key: SessionKey) -> None:
        self._start().ending(clock.now(), key)
        self._act()

    def _on_death(self, key: SessionKey, death: Death) -> None:
        self._start().died(clock.now(), key, self._callers.process(key), death.why(), death.seconds())
        self._act()

    def _on_draining(self, nodes: dict[str, float | None], dead: Set[str]) -> None:
        self._start().draining(clock.now(), nodes, dead)
        self._act()

    def _known_to_drain(self) -> Set[str]:
        return self._start().membership.draining_nodes(clock.now()).keys()

    def _on_replaced(self, key: SessionKey, process: str) -> None:
        log.info("the former process of member %r is dead", key[0])
        self._start().replaced(clock.now(), key, process)
        self._act()

    def _act(self) -> None:
        """Carry out the driver's actions after an event."""
        actions = self._start().actions(clock.now())
        for key in actions.unwatch:
            self._watch.forget(key)
            self._handles.forget(key)
            self._callers.forget(key)
            self._shares.pop(key, None)
        if actions.answer and not self._to_answer:
            asyncio.get_running_loop().call_soon(self._answer_some)
        self._to_answer.update(dict.fromkeys(key for key in actions.answer if key in self._held))
        for waiter, result in actions.results:
            if waiter.done():
                continue
            if isinstance(result, Exception):
                waiter.set_exception(result)
            else:
                waiter.set_result(result)
        if actions.prove:
            self._proof_wanted.set()
        self._event_log.follow()
        if actions.wake_at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = actions.wake_at
            self._timer = asyncio.get_running_loop().call_later(max(0.0, self._timer_at - clock.now()), self._on_timer)

    def _answer_some(self) -> None:
        """Answer held heartbeats that have news: a few, and the others after what else is waiting."""
        driver, told = self._start(), 0
        while self._to_answer and told < TOLD_IN_A_TURN:
            key = next(iter(self._to_answer))
            del self._to_answer[key]
            if key in self._held:
                fire(self._held[key])
                told += max(8, driver.groups_to_tell(key))
        if self._to_answer:
            asyncio.get_running_loop().call_later(ANSWER_EVERY, self._answer_some)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        self._start().timer(clock.now())
        self._act()

    # -- rule 8: the proof that the GCS still counts this node alive ---------------------------------------------

    async def _keep_proving(self) -> None:
        """Ask at every `node_proof_interval`, and sooner when a call waits for a later proof."""
        collected = clock.now()
        while True:
            if clock.now() >= collected + COLLECT_EVERY:
                gc.collect()
                collected = clock.now()
            interval = self._settings.node_proof_interval
            if await self._prove():
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._proof_wanted.wait(), interval)
            else:
                await asyncio.sleep(interval)
            self._proof_wanted.clear()

    async def _prove(self) -> bool:
        """Record the longest lease if it has grown, and ask then; returns whether the GCS counts this node alive."""
        membership, records = self._start().membership, self._records
        for version in sorted(self._unrecorded):
            if not await records.add_settings(version, self._unrecorded[version].to_dict()):
                return False
            del self._unrecorded[version]
        longest = max(membership.longest_wanted, membership.longest_allowed)
        if longest > self._recorded and (not records.are_kept or await records.add_lease(longest)):
            self._recorded = longest
        asked = clock.now()
        if not self._recorded or not await self._counts_as_alive():
            return False
        try:
            self._start().proof(clock.now(), asked, self._recorded)
            self._act()
        except Exception:
            log.exception("a proof was taken in, and what follows from it failed")
        if membership.former_are_over(clock.now()) and not self._former_settled:
            self._former_settled = await records.settle_former()
        return True

    async def _counts_as_alive(self) -> bool:
        try:
            if self._node in await asyncio.wait_for(alive_nodes(), self._settings.ttl):
                return True
            log.error("the GCS counts this node as dead: no lease of an exclusive group is renewed")
        except Exception as error:
            log.warning("the GCS does not answer (%r): no lease of an exclusive group is renewed", error)
        return False


def _where(identity: ProcessIdentity | None) -> Where | None:
    return None if identity is None else Where(identity.node or None, identity.pid)
