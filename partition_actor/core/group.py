"""One group at the partition actor: who is on its ring, and which epoch is published.

A *participant* is a session on the ring, or one that was. In an exclusive group a session stays a participant after the
ring has given its keys away, until it acknowledges an epoch without it: until then it may still act (rule 2 of
``docs/guarantees.md``). In a group that is not exclusive it goes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from partition_actor.core.epochs import Epoch
from partition_actor.core.events import BEGINS, Cause, Events
from partition_actor.core.handoff import Handoff, Participant
from partition_actor.core.messages import (
    WHOLE,
    GroupEntry,
    GroupReport,
    Members,
    Request,
    SessionKey,
    ViewMessage,
    is_former,
)
from partition_actor.core.views import ChangeLog, ring_for
from partition_actor.ring import Ring
from partition_actor.settings import Settings

NAMED = 5
"""Members that `Group.handoff` names."""
_JOINED = Cause("joined", ("it asked to join",))
_REJOINED = Cause("rejoined", ("its lease had ended here, and it came back",))
_WEIGHT = Cause("weight")
_LEFT = Cause("left", ("it left the group",))


@dataclass(slots=True)
class ReportState:
    """What a session holds of one group by its latest request, and what the reply says beside the view."""

    have: Epoch | None
    rev: int
    wants_in: bool = False
    watches: bool = False
    unknown: bool = False
    entry: GroupEntry | None = None
    """What the reply says in place of a view."""
    resync: bool = False
    want_views: bool = False
    rejoined: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """A group report, with what the rest of its request says about it."""

    said: GroupReport
    wants_in: bool
    met: bool
    """The member has had a reply from this partition actor, so this is no late message from before its start."""
    leased: bool
    """The member's lease in this group ran when it sent this, if the group is exclusive."""

    @classmethod
    def of(cls, said: GroupReport, request: Request, incarnation: int, drained: int) -> Report:
        """The report that a request has of a group; joins asked for up to `seq` `drained` do not count."""
        wants_in = said["want"] == "in" and said["since"] > drained
        leased = request["leased"] and not said.get("lapsed", False)
        return cls(said, wants_in, request["incarnation"] == incarnation, leased)


class Group:
    """The state of one group.

    `note` is called with each session whose view has changed, and with the group's name. `changed` collects the groups
    with something to publish, to tell or to record in `events`.
    """

    def __init__(
        self,
        name: str,
        exclusive: bool | None,
        settings: Settings,
        note: Callable[[SessionKey, str], None],
        changed: dict[str, Group],
        now: float,
        events: Events,
    ) -> None:
        self.name = name
        self.exclusive = bool(exclusive)
        self._mode_assumed = exclusive is None
        self.settings = settings
        self.recovering = False
        self.participants: dict[SessionKey, Participant] = {}
        self.joiners: dict[SessionKey, Participant] = {}
        """While recovering: those who wait to be admitted."""
        self.next_ring: dict[str, tuple[int, str]] = {}
        """``{member_id: (weight, session)}``: what the next epoch publishes."""
        self._displaced: set[SessionKey] = set()
        """Sessions whose id another has taken, perhaps before they had a view: they do not take it back."""
        self.sessions: dict[str, str] = {}
        """``{member_id: session}`` on the published ring."""
        self.changed_since: float | None = None
        self._waiting_news: dict[SessionKey, None] = {}
        """Sessions that wait for fewer laggards than they were told of, and still for some."""
        self._tell_at: float | None = None
        self.opened_at, self.published_at = now, float("-inf")
        self.empty_since: float | None = now
        self._note = note
        self._changed = changed
        self._log = ChangeLog()
        self._handoff = Handoff(settings)
        self._events = events
        self._causes: dict[SessionKey, Cause] = {}
        """Why sessions have come, gone or changed their weight since the published epoch."""
        self.handed_over: list[tuple[Epoch, SessionKey, Cause]] = []
        """Hand-offs that are over and not yet recorded."""
        self._survivors: int | None = None
        """How many kept their place in a recovery that the next epoch ends."""

    # -- the next ring ------------------------------------------------------------------------------------------

    def put_on_ring(self, key: SessionKey, participant: Participant, now: float) -> None:
        """Give the keys of its id to this session in the next epoch; another that has them keeps what it may act on."""
        member, session = key
        before = self.next_ring.get(member)
        former = self.participants.get(key)
        self.participants[key] = participant
        if former is not None and former is not participant:  # it is done with whatever it did before
            self._handoff.laggards.pop(key, None)
            self._trim(key, "joined again")
        if before == (participant.weight, session):
            return
        self.next_ring[member] = (participant.weight, session)
        self._mark_changed(now)
        self._displaced.discard(key)
        if before is None or before[1] != session:
            self._causes[key] = _JOINED
        else:
            self._causes.setdefault(key, _WEIGHT)
        if before is not None and before[1] != session:
            other = (member, before[1])
            where = self._events.where_of(other)
            self._causes[other] = Cause("superseded", ("session {} has taken its place", session), None, where)
            self._displaced.add(other)
            self._forget_if_free(other)

    def goes(self, key: SessionKey, cause: Cause, now: float, *, was_ending: bool = False) -> None:
        """Note why a session is about to be taken off the ring, or record that one has ended that was off it.

        `was_ending`: it was off the ring because its process was about to end.
        """
        entry = self.next_ring.get(key[0])
        if entry is not None and entry[1] == key[1]:
            self._causes[key] = cause
        elif self.sessions.get(key[0]) == key[1]:  # the next epoch is to show that it has gone
            if was_ending and cause.what == "died":
                self._causes[key] = cause
        elif (key in self.participants or was_ending) and cause.what in ("died", "expired"):
            self._events.record(now, cause, key, self.name, self.epoch)

    def take_off_ring(self, key: SessionKey, now: float) -> None:
        """Take the session off the ring in the next epoch; it stays a participant as long as it may still act."""
        participant = self.participants.get(key)
        if participant is not None:
            participant.leaving = True
        if self.is_on_ring(key):
            del self.next_ring[key[0]]
            self._mark_changed(now)
        if not self.recovering:
            self._forget_if_free(key)

    def is_on_ring(self, key: SessionKey) -> bool:
        """Whether the next ring gives the keys of its id to this very session."""
        return self.session_of(key[0]) == key[1]

    def session_of(self, member: str) -> str | None:
        """The session to which the next ring gives the keys of `member`."""
        entry = self.next_ring.get(member)
        return None if entry is None else entry[1]

    def is_superseded(self, key: SessionKey) -> bool:
        """Whether another session has this one's id for good: not one that its own process has ended before."""
        holder = self.session_of(key[0])
        return holder is not None and holder != key[1] and not is_former(holder, key[1])

    def remove(self, key: SessionKey, now: float) -> None:
        """The session has left, its lease has ended or its process is dead: it may act on nothing any more."""
        self.joiners.pop(key, None)
        self._displaced.discard(key)
        if self.is_on_ring(key):
            del self.next_ring[key[0]]
            self._mark_changed(now)
        self._forget(key)

    def _forget_if_free(self, key: SessionKey) -> None:
        participant = self.participants.get(key)
        if participant is not None and (not self.exclusive or participant.first is None):
            self._forget(key)

    def _forget(self, key: SessionKey) -> None:
        participant = self.participants.pop(key, None)
        if participant is not None:
            self._tell(self._handoff.release(key))
            if not self.recovering:
                acknowledged = participant.acked is not None and participant.acked == self.epoch
                self._trim(key, "acknowledged" if acknowledged else "was out of the group")
        self._note(key, self.name)

    def _trim(self, key: SessionKey, end: str) -> None:
        """Forget the epochs that are over now that `key` claims less, and note how the hand-offs have ended."""
        self._handoff.trim(self.participants.values())
        if not self._handoff.finished:
            return
        for epoch, at, waited_for in self._handoff.finished:
            who = "it alone held it up" if waited_for == 1 else "it was the last of {} that held it up"
            why = (who + ", until it {}", waited_for, end) if waited_for > 1 else (who + ", until it {}", end)
            self.handed_over.append((epoch, key, Cause("handed_over", why, at, self._events.where_of(key))))
            self._changed[self.name] = self
        self._handoff.finished.clear()

    def _mark_changed(self, now: float) -> None:
        if self.changed_since is None:
            self.changed_since = now
        self._changed[self.name] = self

    def _tell(self, keys: Iterable[SessionKey]) -> None:
        """Tell sessions of fewer laggards: at once those that have none left, the others at the end of a window."""
        for key in keys:
            participant = self.participants.get(key)
            if participant is None:
                continue
            if self.settings.publish_window and self._handoff.blockers(key):
                self._waiting_news[key] = None
                self._changed[self.name] = self
                continue
            self._waiting_news.pop(key, None)
            participant.rev += 1
            self._note(key, self.name)

    # -- epochs -------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> Epoch | None:
        """The published epoch; None before the first."""
        return self._log.epoch

    @property
    def members(self) -> Members:
        """The members of the published epoch."""
        return self._log.members

    @property
    def publish_due(self) -> float | None:
        """When to publish the next epoch: at once after a quiet time, else at the end of a window."""
        if self.changed_since is None or self.recovering:
            return None
        return max(self.changed_since, self.published_at + self.settings.window_for(len(self.participants)))

    @property
    def due(self) -> float | None:
        """When there is something to publish or to tell, as far as is known."""
        return min((at for at in (self.publish_due, self._tell_at) if at is not None), default=None)

    @property
    def is_published(self) -> bool:
        """Whether everything asked for so far is part of the published epoch."""
        return not self.recovering and self.changed_since is None

    @property
    def compared(self) -> int:
        """How often it has compared two rings to work out a hand-off: what takes long."""
        return self._handoff.compared

    def tell_waiting(self, now: float) -> None:
        """Tell those who wait for several laggards that some are through, if that is due."""
        if self._waiting_news and self._tell_at is None:
            self._tell_at = now + self.settings.window_for(len(self.participants))
        if self._tell_at is None or now < self._tell_at:
            return
        for key in self._waiting_news:
            if key in self.participants:
                self.participants[key].rev += 1
                self._note(key, self.name)
        self._waiting_news.clear()
        self._tell_at = None

    def publish(self, epoch: Epoch, now: float) -> None:
        """Publish the next ring as `epoch`, which must be higher than every epoch before."""
        before, weights = self.sessions, self.members
        self._log.publish(epoch, {member: weight for member, (weight, _) in self.next_ring.items()})
        self.sessions = {member: session for member, (_, session) in self.next_ring.items()}
        self.published_at, self.changed_since = now, None
        self._record(epoch, before, weights, now)
        self._waiting_news.clear()
        self._tell_at = None
        self.empty_since = None if self.sessions else now
        for key, participant in self.participants.items():
            has_keys = self.sessions.get(key[0]) == key[1]
            participant.note_ring(epoch, has_keys)
            if has_keys and participant.acked is None:
                participant.acked = epoch
            participant.rev = 0
            self._note(key, self.name)
        if self.exclusive:
            self._handoff.publish(epoch, self.members, self.sessions, self.participants, now)
        for key in list(self.participants):
            self._forget_if_done(key)

    def _record(self, epoch: Epoch, before: Mapping[str, str], weights: Members, now: float) -> None:
        """Record what `epoch` has changed, against the sessions and `weights` before."""
        if self._survivors is not None:
            kept = ("{} of its members kept their places", self._survivors)
            self._events.record(now, Cause("recovered", kept, now - self.opened_at), None, self.name, epoch)
            self._survivors = None
        for key, cause in self._causes.items():
            was, is_now = before.get(key[0]) == key[1], self.sessions.get(key[0]) == key[1]
            if was and is_now and weights[key[0]] != self.members[key[0]]:
                why = ("it weighs {} instead of {}", self.members[key[0]], weights[key[0]])
                self._events.record(now, _WEIGHT._replace(why=why), key, self.name, epoch)
            elif was != is_now or (was and cause.what in BEGINS):  # it has gone and come back
                self._events.record(now, cause, key, self.name, epoch)
        self._causes.clear()

    def record_handoffs(self, now: float) -> None:
        """Record the hand-offs that are over."""
        for epoch, key, cause in self.handed_over:
            assert cause.seconds is not None
            self._events.record(now, cause._replace(seconds=now - cause.seconds), key, self.name, epoch)
        self.handed_over.clear()

    @property
    def hands_over(self) -> bool:
        """Whether there is an epoch that somebody who may still act has not acknowledged."""
        return bool(self._handoff.unfinished)

    def handoff(self, now: float) -> dict[str, Any] | None:
        """The hand-off that is under way, or None: since when, how many hold it up, and some of them."""
        if not self._handoff.unfinished:
            return None
        since, _ = next(iter(self._handoff.unfinished.values()))
        laggards = self._handoff.laggards
        names = [member for member, _ in islice(laggards, NAMED)]
        return {"seconds": now - since, "held_up_by": names, "members": len(laggards)}

    def ack(self, key: SessionKey, epoch: Epoch) -> None:
        """The session has adopted `epoch` and is done with every key that it lost before."""
        participant = self.participants.get(key)
        if participant is None or participant.acked is None or epoch <= participant.acked:
            return
        participant.acked = epoch
        participant.told = [each for each in participant.told if each[0] > epoch]
        if self.exclusive and not self.recovering:
            self._tell(self._handoff.release(key, participant))
            self._forget_if_done(key)
            self._trim(key, "acknowledged")

    def _forget_if_done(self, key: SessionKey) -> None:
        participant = self.participants[key]
        if self.is_on_ring(key) or (self.exclusive and participant.acked is None):
            return
        done = participant.last and participant.acked and participant.acked >= participant.last
        if not self.exclusive or participant.first is None or done:
            self._forget(key)

    def note_told(self, key: SessionKey, now: float) -> None:
        """A reply tells a participant of the published epoch."""
        participant, epoch = self.participants.get(key), self.epoch
        if participant is None or epoch is None or not self.exclusive:
            return
        known = max([participant.acked or (0, 0), *(each for each, _ in participant.told[-1:])])
        if epoch > known:
            participant.told.append((epoch, now))

    def lagging_since(self, key: SessionKey, *, once_told: bool) -> float | None:
        """Since when a participant of an exclusive group could have acknowledged an epoch that it has not, or None.

        That is when a reply first told it of the epoch, or (not `once_told`) when the epoch was published.
        """
        participant = self.participants.get(key)
        if participant is None or not self.exclusive:
            return None
        if once_told:
            return participant.told[0][1] if participant.told else None
        return self._handoff.lagging_since(participant)

    def waits_for(self, key: SessionKey) -> list[str]:
        """The ids of the members whose hand-off this session waits for, sorted."""
        return sorted({other[0] for other in self._handoff.blockers(key)})

    def ring(self) -> Ring:
        """The ring of the published epoch."""
        return ring_for(self.members, self.settings)

    # -- views --------------------------------------------------------------------------------------------------

    def view_for(self, key: SessionKey, have: Epoch | None = None) -> ViewMessage:
        """The view of a participant that holds the view of epoch `have`."""
        assert self.epoch is not None
        view = self._view(self.epoch, self.members, have)
        view["rev"] = self.participants[key].rev
        view["mine"] = self.sessions.get(key[0]) == key[1]
        view["awaited"] = self._handoff.awaited(key)
        view["laggards"] = [
            {"member": other[0], "epochs": self._handoff.claims(other, self.participants[other])}
            for other in self._handoff.blockers(key)
        ]
        base = view["base"]
        if base != self.epoch:
            claimed = dict.fromkeys(at for laggard in view["laggards"] for at in laggard["epochs"])
            view["rings"] = [self._handoff.ring_at(at) for at in claimed if at != base]
        return view

    def view_for_watcher(self, known: ReportState) -> ViewMessage | None:
        """The view of a group watcher; None when it has heard of the latest.

        While the group recovers that is the latest view of the survivors: they work by it.
        """
        epoch, members = self._handoff.latest() if self.recovering else (self.epoch, self.members)
        if epoch is None or (known.have is not None and known.have >= epoch):
            return None
        whole = known.unknown or known.rev == WHOLE or self.recovering
        return self._view(epoch, members, None if whole else known.have)

    def _view(self, epoch: Epoch, members: Members, have: Epoch | None) -> ViewMessage:
        """A view without laggards: what has changed since the epoch `have`, or all `members`."""
        changed = None if have is None else self._log.since(have)
        return {
            "epoch": epoch,
            "rev": 0,
            "exclusive": self.exclusive,
            "mine": False,
            "base": None if changed is None else have,
            "changed": members if changed is None else changed,
            "laggards": [],
            "rings": [],
        }

    # -- reports ------------------------------------------------------------------------------------------------

    def mode_conflicts(self, report: Report) -> bool:
        """Whether the report takes the group for exclusive and it is not, or the reverse."""
        mode = report.said["exclusive"]
        if self.recovering and not self.participants and mode is not None:
            knows = report.said["have"] is not None  # and so does every other survivor
            if knows or self._mode_assumed:
                self.exclusive, self._mode_assumed = mode, False
        return mode is not None and mode != self.exclusive

    def take_report(self, now: float, key: SessionKey, report: Report, *, barred: bool) -> None:
        """Take in the report of a participant; one that is `barred` does not get back on the ring."""
        participant, weight = self.participants[key], report.said["weight"]
        if not report.wants_in and not participant.leaving:
            self.goes(key, _LEFT, now)
            self.take_off_ring(key, now)
        elif report.wants_in and participant.leaving and not barred and self.session_of(key[0]) is None:
            participant.leaving, participant.weight = False, weight
            self.put_on_ring(key, participant, now)
        elif self.is_on_ring(key) and weight != participant.weight:
            participant.weight = weight
            self.put_on_ring(key, participant, now)
        acked = report.said["acked"]
        if acked is not None:
            self.ack(key, acked)

    def admit(
        self, now: float, key: SessionKey, report: Report, state: ReportState, *, late: bool, waited: bool
    ) -> None:
        """Put a session on the ring that is no participant. One that has a view had expired; another may have its id.

        A session takes an id over only when it has had a reply, or a late message of a process long gone could throw a
        live one out. For the same reason no session that has ended (`late`) takes an id over, none from a later one of
        its own process, and none that had a place and has `waited` while its node was draining.
        """
        had_view = report.said["have"] is not None
        holder = self.session_of(key[0])
        if holder is not None:
            gives_way = had_view or late or waited or key in self._displaced or is_former(key[1], holder)
            if gives_way and self.is_superseded(key):
                state.entry = {"state": "superseded"}
                return
            if not report.met:
                state.resync = True
                return
        state.rejoined = had_view and not waited
        self.put_on_ring(key, Participant(report.said["weight"], report.said.get("metadata")), now)
        if state.rejoined:
            self._causes[key] = _REJOINED

    def is_steady(self, key: SessionKey, state: ReportState) -> bool:
        """Whether a session is on the ring as it wants, holds the latest view, and blocks nobody."""
        participant = self.participants.get(key)
        if participant is None or self.recovering or state.entry or state.resync or state.want_views:
            return False
        wanted = state.wants_in and not participant.leaving and self.is_on_ring(key)
        known = participant.acked is not None and (self.epoch, participant.rev) == (state.have, state.rev)
        return wanted and known and (not self.exclusive or participant.acked == self.epoch)

    # -- the hand-over to the next partition actor --------------------------------------------------------------

    def state(self, now: float) -> dict[str, Any]:
        """What `restore` of the next partition actor needs, once all is published; times are ages in seconds."""
        assert self.is_published
        for key in self._waiting_news:
            if key in self.participants:
                self.participants[key].rev += 1
                self._note(key, self.name)
        self._waiting_news.clear()
        return {
            "exclusive": self.exclusive,
            "mode_assumed": self._mode_assumed,
            "epoch": self.epoch,
            "members": dict(self.members),
            "sessions": dict(self.sessions),
            "participants": {key: each.state(now) for key, each in self.participants.items()},
            "displaced": sorted(self._displaced),
            "empty": None if self.empty_since is None else now - self.empty_since,
            "handoff": self._handoff.state(now),
        }

    def restore(self, state: Mapping[str, Any], now: float) -> None:
        """Go on with the `state` of a former partition actor."""
        self.exclusive, self._mode_assumed = state["exclusive"], state["mode_assumed"]
        self._log.restore(state["epoch"], state["members"])
        self.sessions = state["sessions"]
        self.next_ring = {member: (weight, self.sessions[member]) for member, weight in self.members.items()}
        self.participants = {key: Participant.restored(each, now) for key, each in state["participants"].items()}
        self._displaced = set(state["displaced"])
        self.empty_since = None if state["empty"] is None else now - state["empty"]
        if self.exclusive:
            self._handoff.restore(state["handoff"], self.epoch, self.sessions, self.participants, now)

    # -- recovery (rule 7) --------------------------------------------------------------------------------------

    def take_recovery_report(self, key: SessionKey, report: Report, state: ReportState, *, barred: bool) -> None:
        """Note who waits to be admitted, if it is not `barred`, and what survivors of the former partition actor hold.

        A lease goes on only for a session whose views are known, and that says in a request sent after this partition
        actor's start that its lease runs. Of any other the former partition actor may have known that its lease was
        over, and its keys may be others' now: it holds nothing, and waits.
        """
        said = report.said
        if said["have"] is None or (self.exclusive and not report.leased):
            self.joiners.pop(key, None)
            if key in self.participants:
                self._forget(key)
            if report.wants_in and report.met and not barred:
                self.joiners[key] = Participant(said["weight"], said.get("metadata"), reported=said["have"])
            state.resync = report.wants_in and not report.met
            return
        participant = self.participants.get(key)
        if said.get("views") and report.met:
            leaving = participant is not None and participant.leaving
            participant = self.participants[key] = Participant(said["weight"], said.get("metadata"), leaving=leaving)
            for view in said["views"]:
                self._handoff.learn(view["epoch"], view["members"])
                participant.note_ring(view["epoch"], view["mine"])
                participant.reported = view["epoch"]
        if participant is None or participant.reported != said["have"]:
            state.want_views = state.resync = True
            return
        participant.acked = said["acked"]
        participant.leaving = participant.leaving or not report.wants_in

    def recovered(self, now: float) -> None:
        """Put the survivors back on the ring, and then admit those who waited.

        Of several sessions of one id a new process goes first, then the one that held the latest view.
        """
        self.recovering = False
        for (member, session), participant in sorted(
            self.participants.items(), key=lambda item: item[1].reported or (0, 0)
        ):
            if participant.first is not None and participant.last is None and not participant.leaving:
                self.next_ring[member] = (participant.weight, session)
        self._survivors = len(self.next_ring)
        latest = (float("inf"), 0)
        for key, participant in sorted(self.joiners.items(), key=lambda item: item[1].reported or latest, reverse=True):
            if participant.reported is None or self.session_of(key[0]) is None:
                self.put_on_ring(key, participant, now)
                if participant.reported is not None:
                    self._causes[key] = _REJOINED
        self.joiners.clear()
        self._mark_changed(now)
