"""The member's state machine: its views, its lease, and so what it may work on.

It is the other half of ``membership``. `now` is seconds on the member's own clock. The rules named in comments are
those of ``docs/guarantees.md``.

To drive it: send what `request` returns, hand the reply to `receive`, run the callbacks that the changes call for, and
then call `acknowledge`. Requests may be sent at any time; only the reply to the latest one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from partition_actor.core.epochs import Epoch, fencing_token
from partition_actor.core.lock_requests import LockRequest, LockRequests
from partition_actor.core.messages import (
    MINOR,
    PROTOCOL,
    WHOLE,
    GroupEntry,
    GroupReport,
    Heading,
    Reply,
    Request,
    ShortRequest,
    Statement,
    ViewMessage,
    Want,
    check_same_mode,
)
from partition_actor.core.share import Share
from partition_actor.core.views import View
from partition_actor.settings import Settings
from partition_actor.version import __version__

State = Literal["joining", "member", "out", "superseded", "conflict", "missing", "taken", "watching"]


JOINED_AT_ONCE = 200
"""Groups that a request asks to join, so that the partition actor does not spend long on one request."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a reply has changed in one group: the view before and after, either None where there is none."""

    group: str
    before: View | None
    after: View | None
    state: State
    rejoined: bool = False

    @property
    def joined(self) -> list[str]:
        """The ids that are members now and were not before, sorted."""
        return sorted(_ids(self.after) - _ids(self.before))

    @property
    def left(self) -> list[str]:
        """The ids that were members before and are not now, sorted."""
        return sorted(_ids(self.before) - _ids(self.after))


@dataclass(slots=True)
class GroupState:
    """This member in one group."""

    weight: int
    metadata: bytes | None
    exclusive: bool | None
    since: int
    conditional: bool = False
    told: int = 0
    """The `seq` of the first request that says the metadata; 0 for that of the join."""
    want: Want = "in"
    state: State = "joining"
    acked: Epoch | None = None
    """Of one who watches: the latest epoch that it has heard of."""
    views: list[View] = field(default_factory=list)
    """In ascending order, from the last one acknowledged to the one held."""
    wants_whole: bool = False
    """It was told of changes in another view than the one held."""
    unknown: bool = False
    """Of one who watches: the partition actor has said that there is no such group."""
    report: GroupReport | None = None
    """What requests say of the group, until something changes here."""

    @property
    def is_live(self) -> bool:
        """Whether requests tell of the group, and replies count for it."""
        return self.state in ("joining", "member", "watching")

    @property
    def view(self) -> View | None:
        """The view held."""
        return self.views[-1] if self.views else None

    def read(self, told: ViewMessage) -> View | None:
        """A view off the wire; None when it starts from another than the one held, such as after `meet`."""
        self.report = None
        try:
            view = View.of(told, self.view)
        except ValueError:
            self.wants_whole = True
            return None
        self.wants_whole = False
        return view


class MemberState:
    """One session's knowledge of its groups."""

    def __init__(self, member_id: str, session: str, settings: Settings) -> None:
        self.member_id = member_id
        self.session = session
        self.settings = settings
        self.incarnation = 0
        self.interval = settings.hold
        """Seconds until a heartbeat is due, as the partition actor said last."""
        self.groups: dict[str, GroupState] = {}
        self.locks = LockRequests()
        self.lease_until = float("-inf")
        self.exclusive_until = float("-inf")
        self._fenced: dict[str, float] = {}
        """Exclusive groups in which the lease is not renewed (rule 6), and until when it runs there."""
        self.admits_at: float | None = None
        """When the partition actor, which recovers, will admit members; None if it has not said that it does."""
        self.stays = False
        """It is to keep its place while its node drains, until its successor takes it: rule 14."""
        self.node_drains = False
        """The partition actor has said that this member's node is draining."""
        self.withdrawn = False
        """The partition actor has withdrawn its leases, and none has been granted since."""
        self.has_let_go = False
        """And all that ran by them has returned."""
        self._to_release: list[int] = []
        """Tickets of the locks that it held when its leases were withdrawn."""
        self.answered = 0
        """The `seq` of the latest request that has had a reply."""
        self._seq = 0
        self._asked = 0
        self._sent: float | None = None
        self._tell_views = False
        self._stated: Statement | None = None
        """What the latest whole request, number `_stated_at`, says but for locks, if the partition actor has it."""
        self._stated_at = 0
        self._reports: dict[str, GroupReport] = {}
        """What the latest whole request says of the groups, together with what it refers to."""
        self._base: tuple[int, dict[str, GroupReport]] = (0, {})
        """The latest whole request that the partition actor has for certain, and its reports; 0: state everything."""
        self._told: set[str] = set()
        """Groups of which some request since then has told."""

    # -- what the user wants ------------------------------------------------------------------------------------

    def join(
        self,
        group: str,
        weight: int = 1,
        metadata: bytes | None = None,
        exclusive: bool | None = None,
        conditional: bool = False,
    ) -> None:
        """Want to be a member, from the next request on; for one that is, take over the weight and the metadata.

        `conditional`: only if the group exists and nobody else has this id there. Raises ``GroupModeConflict`` when the
        group is known to be of the other mode; what is held stays as it is.
        """
        held = self.groups.get(group)
        if held is not None and held.state in ("joining", "member") and None not in (exclusive, held.exclusive):
            check_same_mode(group, bool(held.exclusive), exclusive)
        if held is None or held.state in ("out", "conflict", "missing", "taken", "watching"):
            self.groups[group] = GroupState(weight, metadata, exclusive, since=self._seq + 1, conditional=conditional)
            return
        held.weight, held.report = weight, None
        if metadata is not None and metadata != held.metadata:
            held.metadata, held.told = metadata, self._seq + 1
        held.exclusive = held.exclusive if exclusive is None else exclusive
        if held.want == "out":
            held.want, held.since = "in", self._seq + 1

    def leave(self, group: str) -> None:
        """Want to be out; the keys go through the ordinary hand-off. A group that is watched is just forgotten."""
        held = self.groups.get(group)
        if held is not None and held.state == "watching":
            del self.groups[group]
        elif held is not None:
            held.want, held.report = "out", None

    def watch(self, group: str) -> None:
        """Want to hear of a group, of which this session is no member."""
        self.groups[group] = GroupState(1, None, None, self._seq + 1, want="watch", state="watching")

    def take_settings(self, settings: Settings) -> None:
        """Take over the partition actor's settings; views of a ring that is built otherwise are worth nothing."""
        ours = (self.settings.vnodes, self.settings.hash_function)
        self.settings = settings
        self._restate()
        if ours != (settings.vnodes, settings.hash_function):
            for held in self.groups.values():
                held.views, held.acked, held.report = [], None, None

    def _restate(self) -> None:
        """The next request states everything."""
        self._stated, self._base = None, (0, {})
        self.locks.restate()

    def end(self) -> None:
        """This session is over: it holds nothing any more, whatever replies still come."""
        self.groups.clear()
        self.locks.clear()
        self._sent = None

    def want_reply(self) -> int:
        """Have the next request answered at once; returns its `seq`, to be compared with `answered`."""
        self._asked = self._seq + 1
        return self._asked

    # -- the exchange with the partition actor ----------------------------------------------------------------------

    def request(self, now: float) -> Request | ShortRequest:
        """The next request. The lease that its reply grants counts from `now`: rule 1."""
        if self._sent is not None:
            self._stated = None  # the partition actor may not have heard it
        self._seq += 1
        self._sent = now
        heading: Heading = {
            "protocol": PROTOCOL,
            "member": self.member_id,
            "session": self.session,
            "seq": self._seq,
            "incarnation": self.incarnation,
        }
        statement = self._statement(now)
        if statement == self._stated and not self.locks.changed_since_sent():
            return {**heading, "same": self._stated_at}
        self._stated, self._stated_at = statement, self._seq
        self._reports = cast(dict[str, GroupReport], statement["groups"])
        base, known = self._base if now < self.lease_until else (0, {})  # it may have been forgotten
        if base:
            self._told.update(name for name in known.keys() | self._reports.keys() if self._differs(name, known))
            statement = {
                **statement,
                "groups_base": base,
                "groups": {name: self._reports.get(name) for name in sorted(self._told)},
            }
        if (locks := self.locks.statement()) is not None:
            statement = {**statement, "locks_base": locks[0], "locks": locks[1]}
        self.locks.sent(self._seq)
        return {**heading, "minor": MINOR, "version": __version__, **statement}

    def _differs(self, name: str, known: Mapping[str, GroupReport]) -> bool:
        before, now = known.get(name), self._reports.get(name)
        return before is not now and before != now

    def _statement(self, now: float) -> Statement:
        tell_views, self._tell_views = self._tell_views, False
        live = [(name, held) for name, held in self.groups.items() if held.is_live]
        joining = [name for name, held in live if held.state == "joining" and name not in self._reports]
        later = set(joining[JOINED_AT_ONCE:])  # the next request tells of these
        if later:
            live = [(name, held) for name, held in live if name not in later]
        statement: Statement = {
            "interval": self.interval,
            "leased": now < self.exclusive_until,
            "groups": {name: self._report(now, name, held, tell_views) for name, held in live},
        }
        self._mind_lapse(now)
        if self._asked > self.answered or later:
            statement["prompt"] = True
        if self.withdrawn:
            statement["withdrawn"] = self.has_let_go
        if self.stays:
            statement["stays"] = True
        return statement

    def _report(self, now: float, name: str, held: GroupState, tell_views: bool) -> GroupReport:
        view = held.view
        is_fenced = now >= self._fenced.get(name, float("inf"))
        lapsed = is_fenced or now >= self.lease_until  # so the session may have been forgotten
        tells_metadata = view is None or tell_views or lapsed or held.told > self.answered
        if held.report is not None and not tells_metadata:
            return held.report
        report: GroupReport = {
            "want": held.want,
            "since": held.since,
            "weight": held.weight,
            "exclusive": held.exclusive,
            "have": view.epoch if view else held.acked,
            "rev": WHOLE if held.wants_whole else view.rev if view else 0,
            "acked": held.acked,
        }
        held.report = None if tells_metadata else report  # what is told for a while only is made anew
        if tells_metadata:
            report["metadata"] = held.metadata
        if is_fenced:
            report["lapsed"] = True
        if held.state == "watching":
            report["unknown"] = held.unknown
        if view is None and held.conditional:
            report["conditional"] = True
        if tell_views:
            report["views"] = [{"epoch": view.epoch, "members": view.members, "mine": view.mine} for view in held.views]
        return report

    def receive(self, reply: Reply) -> list[Change] | None:
        """Take in a reply; None: it does not count, being late, repeated or from a partition actor of the past."""
        if reply["seq"] != self._seq or self._sent is None or reply["incarnation"] < self.incarnation:
            return None
        self.answered = reply["seq"]
        self.incarnation = reply["incarnation"]
        if reply["lease"] > 0 or self.lease_until <= self._sent:
            self.interval = reply["interval"]
        else:  # the lease that runs may not outlast a longer one
            self.interval = min(self.interval, reply["interval"])
        self._tell_views = reply["views"]
        if reply["resync"]:
            self._restate()
        else:
            self._base = (self._stated_at, self._reports)
            self._told.clear()
            self.locks.heard()
        if reply["lease"] > 0:
            self.lease_until = max(self.lease_until, self._sent + reply["lease"])
        if reply["exclusive_lease"] > 0:  # only with it does a lease that has ended in a group run again there
            self._fenced = {name: self._fenced.get(name, self.exclusive_until) for name in reply.get("fenced", ())}
            self.exclusive_until = max(self.exclusive_until, self._sent + reply["exclusive_lease"])
        self.admits_at = self._sent + reply["wait"] if "wait" in reply else None
        self.node_drains = reply.get("draining", False)
        if reply.get("withdrawn"):
            self._withdraw()
        elif reply["lease"] > 0 or reply["exclusive_lease"] > 0:
            self.withdrawn = self.has_let_go = False
        self._sent = None
        self.locks.take(reply.get("locks", {}), reply.get("slots", {}))
        changes = [self._take_entry(name, entry, reply["seq"]) for name, entry in reply["groups"].items()]
        return [change for change in changes if change is not None]

    def _withdraw(self) -> None:
        """Every lease is over now: rule 11."""
        if not self.withdrawn:
            self.withdrawn, self._to_release = True, list(self.locks.held())
        self.lease_until = self.exclusive_until = float("-inf")
        self._fenced.clear()
        self.locks.lapse()

    def has_released(self) -> bool:
        """Whether the user has released every lock that was held when the leases were withdrawn."""
        return all(self.locks.state(ticket) is None for ticket in self._to_release)

    def _take_entry(self, name: str, entry: GroupEntry, seq: int) -> Change | None:
        held = self.groups.get(name)
        if held is None or not held.is_live:
            return None
        before, held.report = held.view, None
        if held.state == "watching":
            return self._watch_entry(name, held, entry)
        if "state" in entry:
            state = entry["state"]
            if state == "unknown":
                return None  # it has joined since it watched
            held.state = state
            if held.state == "conflict":
                held.exclusive = entry["exclusive"]
            if held.state == "out" and held.want == "in" and held.since > seq:
                held.state = "joining"  # asked for since: the partition actor has still to hear of it
            if held.state == "joining":
                held.conditional = False  # it has been a member
            held.views, held.acked = [], None
            return Change(name, before, None, held.state)
        view = held.read(entry["view"])
        if view is None or (before is not None and (view.epoch, view.rev) <= (before.epoch, before.rev)):
            return None
        held.state = "member"
        held.exclusive = view.exclusive
        if before is not None:
            view.supersede(before)
        if before is not None and before.epoch == view.epoch:
            held.views[-1] = view
        else:
            held.views.append(view)
        held.acked = held.acked or view.epoch
        return Change(name, before, view, "member", bool(entry.get("rejoined")))

    def _watch_entry(self, name: str, held: GroupState, entry: GroupEntry) -> Change | None:
        before, view = held.view, None
        if "view" in entry:
            view = held.read(entry["view"])
            if view is None or (held.acked is not None and view.epoch <= held.acked):
                return None
            held.acked = view.epoch
        held.unknown = view is None
        held.views = [] if view is None else [view]
        return Change(name, before, view, "watching")

    def acknowledge(self, group: str, epoch: Epoch) -> int:
        """Note that the callbacks for the keys lost up to `epoch` have returned: rule 3.

        Returns of how many members others wait to hear that, this one among them; 0 when nobody waits for this one.
        """
        held = self.groups.get(group)
        if held is None or held.view is None or held.acked is None or epoch <= held.acked:
            return 0
        held.acked, held.report = min(epoch, held.view.epoch), None
        held.views = [view for view in held.views if view.epoch >= held.acked]
        return held.view.awaited

    # -- what it may work on ------------------------------------------------------------------------------------

    def view(self, group: str) -> View | None:
        """The view held, whether the lease runs or not."""
        held = self.groups.get(group)
        return None if held is None else held.view

    def acting(self, now: float, group: str) -> View | None:
        """The view that this member may act on at `now`: None when its lease is over or its id has been taken."""
        view = self.view(group)
        if view is None or not view.mine or now >= self.acts_until(group):
            return None
        return view

    def acts_until(self, group: str) -> float:
        """Until when the lease lets this member act on its view of a group, on its own clock."""
        view = self.view(group)
        if view is not None and not view.exclusive:
            return self.lease_until
        return min(self.exclusive_until, self._fenced.get(group, float("inf")))

    def lease_ends(self) -> list[float]:
        """When each of its leases ends."""
        return [self.lease_until, self.exclusive_until, *self._fenced.values()]

    def share(self, now: float, group: str) -> Share:
        """What this member may work on at `now`: rule 4."""
        view = self.acting(now, group)
        return Share(self.member_id) if view is None else Share.by(view, self.member_id, self.settings)

    def may_act(self, now: float, group: str, *keys: object) -> bool:
        """Whether this member may work on all of `keys` at `now`."""
        share = self.share(now, group)
        return share.has(keys[0]) if len(keys) == 1 else len(share.of(keys)) == len(keys)

    def holds(self, now: float, ticket: int) -> bool:
        """Whether the lock that was asked for under `ticket` is held at `now`: rule 10."""
        self._mind_lapse(now)
        return self.locks.state(ticket) == "held"

    def locks_held(self, now: float) -> dict[int, LockRequest]:
        """What is held at `now`, by ticket."""
        return self.locks.held() if now < self.exclusive_until else {}

    def _mind_lapse(self, now: float) -> None:
        if now >= self.exclusive_until:
            self.locks.lapse()

    def subset(self, now: float, group: str, keys: Iterable[Any]) -> list[Any]:
        """Those of `keys` that this member may work on at `now`, in their order."""
        return self.share(now, group).of(keys)

    def token(self, now: float, group: str) -> int:
        """The fencing token of the view that this member may act on; 0, lower than any other, without one: rule 9."""
        view = self.acting(now, group)
        return 0 if view is None else fencing_token(view.epoch)


def _ids(view: View | None) -> set[str]:
    return set(view.members) if view else set()
