"""One group at the partition actor: who has a place on the ring, and which epoch is published.

A *seat* is a session's standing in the group. In an exclusive group a session keeps its seat after its place on the
ring is gone, until it acknowledges an epoch in which it has none: until then it may still act (rule 2 of
``docs/guarantees.md``). In a group that is not exclusive the seat goes with the place.

Pure: no clock, no threads, no Ray.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from partition_actor.core.handoff import Handoff, Seat
from partition_actor.core.messages import WHOLE, Epoch, Members, SessionKey, ring_for
from partition_actor.core.reports import Report, ReportState
from partition_actor.core.views import ChangeLog
from partition_actor.ring import Ring
from partition_actor.settings import Settings

LATEST: Epoch = (1 << 63, 0)
"""Later than every epoch."""


class Group:
    """The state of one group; ``desired`` is what the next epoch will publish, as ``{id: (weight, session)}``.

    `news` collects the sessions whose view has changed, `dirty` the groups in which there is something to do.
    """

    def __init__(
        self,
        name: str,
        exclusive: bool | None,
        settings: Settings,
        news: set[SessionKey],
        dirty: dict[str, Group],
        now: float,
    ) -> None:
        self.name = name
        self.exclusive = bool(exclusive)
        self._assumed = exclusive is None
        self.settings = settings
        self.recovering = False
        self.seats: dict[SessionKey, Seat] = {}
        self.joiners: dict[SessionKey, Seat] = {}
        """While recovering: those who wait to be admitted."""
        self.desired: dict[str, tuple[int, str]] = {}
        self._displaced: set[SessionKey] = set()
        """Sessions whose id another has taken, before they had a view perhaps: they do not take it back."""
        self.occupants: dict[str, str] = {}
        """Who has the place of each id in the published epoch."""
        self.dirty_since: float | None = None
        self._untold: dict[SessionKey, None] = {}
        """Who waits for fewer laggards than it has been told of, and for some still."""
        self._tell_at: float | None = None
        self.published_at = float("-inf")
        self.empty_since: float | None = now
        self._news = news
        self._dirty = dirty
        self._log = ChangeLog()
        self._handoff = Handoff(settings, self._tell)

    # -- places -------------------------------------------------------------------------------------------------

    def take_place(self, key: SessionKey, seat: Seat, now: float) -> None:
        """Give `key` the place of its id, in the next epoch; whoever has it now keeps its seat if it may still act."""
        member, session = key
        before = self.desired.get(member)
        self.seats[key] = seat
        if before == (seat.weight, session):
            return
        self.desired[member] = (seat.weight, session)
        self._touch(now)
        self._displaced.discard(key)
        if before is not None and before[1] != session:
            self._displaced.add((member, before[1]))
            self._lose_place((member, before[1]))

    def give_up_place(self, key: SessionKey, now: float) -> None:
        """Take `key` off the ring in the next epoch; its seat stays as long as it may still act."""
        seat = self.seats.get(key)
        if seat is not None:
            seat.leaving = True
        if self.has_place(key):
            del self.desired[key[0]]
            self._touch(now)
        if not self.recovering:
            self._lose_place(key)

    def has_place(self, key: SessionKey) -> bool:
        """Whether the next epoch gives the place of its id to this very session."""
        return self.holder_of(key[0]) == key[1]

    def holder_of(self, member: str) -> str | None:
        """The session that has the place of `member` in the next epoch."""
        place = self.desired.get(member)
        return None if place is None else place[1]

    def drop_seat(self, key: SessionKey, now: float) -> None:
        """The session has left, its lease has ended or its process is dead: it holds nothing any more."""
        self.joiners.pop(key, None)
        self._displaced.discard(key)
        if self.has_place(key):
            del self.desired[key[0]]
            self._touch(now)
        self._unseat(key)

    def _lose_place(self, key: SessionKey) -> None:
        seat = self.seats.get(key)
        if seat is not None and (not self.exclusive or seat.first is None):
            self._unseat(key)

    def _unseat(self, key: SessionKey) -> None:
        if self.seats.pop(key, None) is not None:
            self._handoff.release(key)
            if not self.recovering:
                self._handoff.trim(self.seats.values())
        self._news.add(key)

    def _touch(self, now: float) -> None:
        if self.dirty_since is None:
            self.dirty_since = now
        self._dirty[self.name] = self

    def _tell(self, key: SessionKey) -> None:
        """Let a seat hear of fewer laggards: at once when there are none, else together with those to come soon."""
        seat = self.seats.get(key)
        if seat is None:
            return
        if self.settings.publish_window and self._handoff.blockers(key):
            self._untold[key] = None
            self._dirty[self.name] = self
            return
        self._untold.pop(key, None)
        seat.rev += 1
        self._news.add(key)

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
        """When the next epoch is to be published: at once after a quiet time, else at the end of a window."""
        if self.dirty_since is None or self.recovering:
            return None
        return max(self.dirty_since, self.published_at + self._window)

    @property
    def due(self) -> float | None:
        """When there is something to publish or to tell, as far as is known."""
        moments = [at for at in (self.publish_due, self._tell_at) if at is not None]
        return min(moments, default=None)

    @property
    def _window(self) -> float:
        return self.settings.window_for(len(self.seats))

    def tell_untold(self, now: float) -> None:
        """Tell those who wait for some laggards that others are through, when that is due."""
        if self._untold and self._tell_at is None:
            self._tell_at = now + self._window
        if self._tell_at is None or now < self._tell_at:
            return
        for key in self._untold:
            if key in self.seats:
                self.seats[key].rev += 1
                self._news.add(key)
        self._all_told()

    def _all_told(self) -> None:
        self._untold.clear()
        self._tell_at = None

    def publish(self, epoch: Epoch, now: float) -> None:
        """Make the desired places the membership of `epoch`, which must be higher than every epoch before."""
        self._log.publish(epoch, {member: place[0] for member, place in self.desired.items()})
        self.occupants = {member: place[1] for member, place in self.desired.items()}
        self.published_at, self.dirty_since = now, None
        self._all_told()
        self.empty_since = None if self.occupants else now
        for key, seat in self.seats.items():
            placed = self.occupants.get(key[0]) == key[1]
            if placed:
                seat.first, seat.last = seat.first or epoch, None
                seat.acked = seat.acked or epoch
            elif seat.first is not None and seat.last is None:
                seat.last = epoch
            seat.rev = 0
            self._news.add(key)
        if self.exclusive:
            self._handoff.publish(epoch, self.members, self.occupants, self.seats, now)
        for key in list(self.seats):
            self._unseat_if_through(key)

    def ack(self, key: SessionKey, epoch: Epoch) -> None:
        """The session has adopted `epoch` and is done with every key that it lost before."""
        seat = self.seats.get(key)
        if seat is None or seat.acked is None or epoch <= seat.acked:
            return
        seat.acked = epoch
        if self.exclusive and not self.recovering:
            self._handoff.acknowledged(key, seat)
            self._unseat_if_through(key)
            self._handoff.trim(self.seats.values())

    def lagging_since(self, key: SessionKey) -> float | None:
        """When the first epoch was published that an exclusive group's seat has not acknowledged, or None."""
        seat = self.seats.get(key)
        return None if seat is None or not self.exclusive else self._handoff.lagging_since(seat)

    def view_for(self, key: SessionKey, have: Epoch | None = None) -> dict[str, Any]:
        """The view of one seat that holds the view of epoch `have`, as ``protocol`` describes it."""
        changed = None if have is None else self._log.since(have)
        base = None if changed is None else have
        laggards = [(other[0], self._handoff.claims(self.seats[other])) for other in self._handoff.blockers(key)]
        claimed = {} if base == self.epoch else dict.fromkeys(at for _, epochs in laggards for at in epochs)
        return {
            "epoch": self.epoch,
            "rev": self.seats[key].rev,
            "exclusive": self.exclusive,
            "mine": self.occupants.get(key[0]) == key[1],
            "awaited": self._handoff.awaited(key),
            "base": base,
            "changed": self.members if changed is None else changed,
            "laggards": laggards,
            "rings": [self._handoff.ring_at(at) for at in claimed if at != base],
        }

    def view_for_watcher(self, known: ReportState) -> dict[str, Any] | None:
        """The view of one who is no member; None when there is nothing later than what it has heard of.

        While the group recovers that is the latest view of those who outlived the former partition actor: they work by
        it.
        """
        epoch, members = self._handoff.latest() if self.recovering else (self.epoch, self.members)
        if epoch is None or (known.have is not None and known.have >= epoch):
            return None
        whole = known.have is None or known.unknown or known.rev == WHOLE or self.recovering
        changed = None if whole or known.have is None else self._log.since(known.have)
        told = {"epoch": epoch, "rev": 0, "exclusive": self.exclusive, "mine": False, "laggards": [], "rings": []}
        if changed is None:
            return {**told, "base": None, "changed": members}
        return {**told, "base": known.have, "changed": changed}

    def waits_for(self, key: SessionKey) -> list[str]:
        """The ids of the members whose hand-off this seat waits for, sorted."""
        return sorted({other[0] for other in self._handoff.blockers(key)})

    def ring(self) -> Ring:
        """The ring of the published epoch."""
        return ring_for(self.members, self.settings)

    def _unseat_if_through(self, key: SessionKey) -> None:
        seat = self.seats[key]
        if self.has_place(key) or (self.exclusive and seat.acked is None):
            return
        if not self.exclusive or seat.first is None or (seat.last and seat.acked and seat.acked >= seat.last):
            self._unseat(key)

    # -- reports ------------------------------------------------------------------------------------------------

    def mode_conflicts(self, report: Report) -> bool:
        """Whether the report takes the group for exclusive and it is not, or the reverse."""
        if self.recovering and not self.seats and report.exclusive is not None:
            knows = report.have is not None  # and so do those who outlived the former partition actor
            if knows or self._assumed:
                self.exclusive, self._assumed = report.exclusive, False
        return report.exclusive is not None and report.exclusive != self.exclusive

    def take_seated_report(self, now: float, key: SessionKey, report: Report, *, barred: bool) -> None:
        """Take in the report of a session that has a seat; one that is `barred` gets no place."""
        seat = self.seats[key]
        if not report.wants_in and not seat.leaving:
            self.give_up_place(key, now)
        elif report.wants_in and seat.leaving and not barred and self.holder_of(key[0]) is None:
            seat.leaving, seat.weight = False, report.weight
            self.take_place(key, seat, now)
        elif self.has_place(key) and report.weight != seat.weight:
            seat.weight = report.weight
            self.take_place(key, seat, now)
        if report.acked is not None:
            self.ack(key, report.acked)

    def take_newcomer(self, now: float, key: SessionKey, report: Report, standing: ReportState, *, late: bool) -> None:
        """Admit a session that has no seat. One that had a view has expired; its id may have gone to another since.

        A session that takes an id over must have had a reply first, or a late message of a process long gone could
        throw a live one out; for the same reason no session that has ended (`late`) takes an id over.
        """
        if self.holder_of(key[0]) is not None:
            if report.have is not None or late or key in self._displaced:
                standing.state = {"state": "superseded"}
                return
            if not report.met:
                standing.resync = True
                return
        standing.rejoined = report.have is not None
        self.take_place(key, Seat(report.weight, report.metadata), now)

    def is_settled(self, key: SessionKey, standing: ReportState) -> bool:
        """Whether a session has the place that it wants, holds the latest view, and blocks nobody."""
        seat = self.seats.get(key)
        if seat is None or self.recovering or standing.state or standing.resync or standing.want_views:
            return False
        wanted = standing.wants_in and not seat.leaving and self.has_place(key)
        known = seat.acked is not None and (self.epoch, seat.rev) == (standing.have, standing.rev)
        return wanted and known and (not self.exclusive or seat.acked == self.epoch)

    # -- recovery (rule 7) --------------------------------------------------------------------------------------

    def take_recovery_report(self, key: SessionKey, report: Report, standing: ReportState) -> None:
        """Note who waits to be admitted, and what those hold who outlived the former coordinator.

        A lease goes on only for a session whose views are known, and that says with a request later than this partition
        actor's start that its lease still runs. Of any other the former partition actor may have known that its lease
        was over, and its keys may be others' now: it holds nothing, and waits.
        """
        if report.have is None or (self.exclusive and not report.leased):
            self.joiners.pop(key, None)
            if key in self.seats:
                self._unseat(key)
            if report.wants_in and report.met:
                self.joiners[key] = Seat(report.weight, report.metadata, reported=report.have)
            standing.resync = report.wants_in and not report.met
            return
        seat = self.seats.get(key)
        if report.views and report.met:
            seat = Seat(report.weight, report.metadata, leaving=bool(seat and seat.leaving))
            self._learn(key, seat, report.views)
        if seat is None or seat.reported != report.have:
            standing.want_views = standing.resync = True
            return
        seat.acked = report.acked
        seat.leaving = seat.leaving or not report.wants_in

    def _learn(self, key: SessionKey, seat: Seat, views: Iterable[tuple[Epoch, Members, bool]]) -> None:
        for epoch, members, mine in views:
            self._handoff.learn(epoch, members)
            seat.reported = epoch
            if mine:
                seat.first, seat.last = seat.first or epoch, None
            elif seat.first is not None and seat.last is None:
                seat.last = epoch
        self.seats[key] = seat

    def recovered(self, now: float) -> None:
        """Put everybody who reported back into its place, and then admit those who waited.

        Of several sessions of one id a new process goes first, then the one that held the latest view.
        """
        self.recovering = False
        for (member, session), seat in sorted(self.seats.items(), key=lambda item: item[1].reported or (0, 0)):
            if seat.first is not None and seat.last is None and not seat.leaving:
                self.desired[member] = (seat.weight, session)
        for key, seat in sorted(self.joiners.items(), key=lambda item: item[1].reported or LATEST, reverse=True):
            if seat.reported is None or self.holder_of(key[0]) is None:
                self.take_place(key, seat, now)
        self.joiners.clear()
        self._touch(now)
