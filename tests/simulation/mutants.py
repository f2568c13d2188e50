"""Mutants: each breaks one rule of ``docs/guarantees.md`` in the production code, through pytest's ``monkeypatch``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from partition_actor.core import handoff, membership
from partition_actor.core.autoscale import Scaler
from partition_actor.core.driver import MembershipDriver
from partition_actor.core.fleet import FleetState
from partition_actor.core.group import Group, Report
from partition_actor.core.handoff import Handoff
from partition_actor.core.lock_requests import LockRequests
from partition_actor.core.lock_table import LockRecord, LockTable
from partition_actor.core.member import MemberState
from partition_actor.core.member_driver import GuardedCall, MemberDriver
from partition_actor.core.membership import Membership
from partition_actor.core.messages import slot_name, slot_of
from partition_actor.core.numbers import FreeNumbers
from partition_actor.member.callbacks import Callbacks
from partition_actor.testing.partition_actors import SimulatedPartitionActor
from partition_actor.testing.transport import SimulatedTransport

_receive = MemberState.receive
_on_reply = SimulatedTransport.on_reply
_begin_call = MemberDriver.begin_call
_next_delivery = MemberDriver.next_delivery
_claims = Handoff.claims
_of = Report.of.__func__
_init = Membership.__init__
_on_death = SimulatedPartitionActor.on_death
_use = Membership.use
_draining = Membership.draining
_take_off_draining = Membership._take_off_draining
_take = LockTable.take
_set_pace = Membership._set_pace
_configure = MembershipDriver.configure
_session_state = Membership._session_state
_restore_membership = Membership._restore
_restore_group = Group.restore
_restore_handoff = Handoff.restore


def lease_from_the_reply(patch: Any) -> None:
    """Rule 1: the lease is counted from the arrival of the reply."""

    def on_reply(self, session, reply):
        for exchange in self._exchanges.values():
            if exchange.member_state._sent is not None:
                exchange.member_state._sent = self.now()
        _on_reply(self, session, reply)

    patch.setattr(SimulatedTransport, "on_reply", on_reply)


def no_margin(patch: Any) -> None:
    """Rule 1: the partition actor expires a lease at receipt + ttl."""
    patch.setattr(Membership, "_grace", lambda self, lease: lease)


def late_replies_accepted(patch: Any) -> None:
    """Rule 1: a reply to an earlier request counts as a reply to the latest."""
    patch.setattr(MemberState, "receive", lambda self, reply: _receive(self, {**reply, "seq": self._seq}))


def lease_of_the_shortest_length(patch: Any) -> None:
    """Rule 1: the partition actor ignores that leases grow with the load."""

    def renew(self, now, key, session):
        session.received, session.lease = now, self.ttl
        self._overdue.pop(key, None)
        self._leases.drop(key)
        self._leases.renew(key, self._run(now), self._grace(self.settings.ttl))

    patch.setattr(Membership, "_renew", renew)


def old_session_released_at_once(patch: Any) -> None:
    """Rule 2: a session whose id another has taken holds nothing any more."""
    patch.setattr(Group, "_forget_if_free", lambda self, key: self._forget(key))


def zombie_readmitted(patch: Any) -> None:
    """Rule 2: a session that has lost its id takes it back."""

    def admit(self, now, key, report, state, *, late, waited):
        self._displaced.clear()
        unseen = replace(report, said={**report.said, "have": None}, met=True)
        _admit(self, now, key, unseen, state, late=False, waited=False)

    _admit = Group.admit
    patch.setattr(Group, "admit", admit)


def acknowledged_before_callbacks(patch: Any) -> None:
    """Rule 3: a view is acknowledged as soon as it arrives."""

    def receive(self, reply):
        changes = _receive(self, reply)
        for change in changes or ():
            if change.after is not None:
                self.acknowledge(change.group, change.after.epoch)
        return changes

    patch.setattr(MemberState, "receive", receive)


def laggards_left_out(patch: Any) -> None:
    """Rule 4: nobody is told who may still act."""
    patch.setattr(Handoff, "blockers", lambda self, key: ())


def only_the_last_ring_checked(patch: Any) -> None:
    """Rule 4: of the epochs that a laggard may act on, only the last counts."""
    patch.setattr(Handoff, "claims", lambda self, *who: _claims(self, *who)[-1:])


def only_the_first_ring_checked(patch: Any) -> None:
    """Rule 4: of the epochs that a laggard may act on, only the one that it acknowledged counts."""
    patch.setattr(Handoff, "claims", lambda self, *who: _claims(self, *who)[:1])


def laggards_epochs_joined_wrongly(patch: Any) -> None:
    """Rule 4: the ring of a laggard's older epochs has the members of any of them, not of all."""
    patch.setattr(handoff, "KEPT", 1)
    patch.setattr(handoff, "_common", lambda members, others: {**members, **others})


def laggards_own_weight_joined_wrongly(patch: Any) -> None:
    """Rule 4: the ring of a laggard's older epochs gives it the lowest of the weights that it had."""
    patch.setattr(handoff, "KEPT", 1)
    patch.setattr(handoff, "max", min, raising=False)


def laggards_older_epochs_forgotten(patch: Any) -> None:
    """Rule 4: only the latest epochs of a laggard count."""

    def join_oldest(self):
        del self._history[next(iter(self._history))]

    patch.setattr(handoff, "KEPT", 1)
    patch.setattr(Handoff, "_join_oldest", join_oldest)


def leaver_released_at_once(patch: Any) -> None:
    """Rule 4: a member that leaves or is drained holds nothing any more, whatever it has acknowledged."""
    patch.setattr(Group, "take_off_ring", lambda self, key, now: self.remove(key, now))


def forgotten_released_at_once(patch: Any) -> None:
    """Rule 5: a member that an operator forgets holds nothing any more."""

    def forget(self, now, group, member):
        found, key = self._find_member(group, member)
        found.remove(key, now)
        self.tick(now)

    patch.setattr(Membership, "forget", forget)


def released_when_its_node_is_lost(patch: Any) -> None:
    """Rule 5: a process on a node that the GCS has lost counts as dead."""
    patch.setattr(SimulatedPartitionActor, "on_death", lambda self, key, certain: _on_death(self, key, True))


def bare_caller_without_lease(patch: Any) -> None:
    """Rule 5: `get_subset` answers though the caller's lease is not renewed."""

    def use(self, now, group, key):
        _use(self, now, group, key)
        found = self.find(group)
        return None if found.recovering or key not in found.participants or found.epoch is None else found.view_for(key)

    patch.setattr(Membership, "use", use)


def bare_caller_answered_without_proof(patch: Any) -> None:
    """Rule 8: `get_subset` answers before the partition actor is proven to be the latest."""
    patch.setattr(MembershipDriver, "_needs_proof", lambda self, group: False)


def next_process_answered_at_once(patch: Any) -> None:
    """Rule 5: the next process of a bare caller's session is answered while the former one may still work."""
    patch.setattr(MembershipDriver, "_may_answer", lambda self, now, key, process: True)


def death_of_the_next_process_frees_the_former(patch: Any) -> None:
    """Rule 5: a session ends with its latest process, though the one before may still work."""

    def died(self, now, key, process=""):
        self.membership.died(now, key)
        self.has_actions = True

    patch.setattr(MembershipDriver, "died", died)


def recovery_ended_without_proof(patch: Any) -> None:
    """Rule 8: a partition actor that may have been replaced ends its wait."""

    def end_recovery(self, now):
        self._recovery_end = None
        for group in self.groups.values():
            if group.recovering:
                group.recovered(now)

    patch.setattr(Membership, "_end_recovery", end_recovery)


def fenced_released_at_once(patch: Any) -> None:
    """Rule 6: a hand-off that takes too long ends the old owner's claims but not its lease."""

    def acknowledged_by_force(self, now, key, session):
        for name in session.groups & self.groups.keys():
            since = self.groups[name].lagging_since(key, once_told=name in session.states)
            if since is not None and now > since + self.settings.handoff_timeout:
                self.groups[name].ack(key, self.groups[name].epoch)
        return False

    patch.setattr(Membership, "_fence", acknowledged_by_force)


def fence_at_the_moment_of_delay(patch: Any) -> None:
    """Rule 6: whoever holds up a hand-off is taken out of the group before its lease there has ended."""

    def fence(self, now, key, session):
        _fence(self, now, key, session)
        for name in session.fenced:
            self._fences.set((key, name), self._run(now))

    _fence = Membership._fence
    patch.setattr(Membership, "_fence", fence)


def fence_ignored(patch: Any) -> None:
    """Rule 6: a member takes each lease to count in all its groups."""
    patch.setattr(MemberState, "receive", lambda self, reply: _receive(self, {**reply, "fenced": []}))


def fence_put_off(patch: Any) -> None:
    """Rule 6: each reply that names a fenced group lets the member act there until its last lease ends."""

    def receive(self, reply):
        self._fenced.clear()
        return _receive(self, reply)

    patch.setattr(MemberState, "receive", receive)


def fence_lifted_without_a_lease(patch: Any) -> None:
    """Rule 6: a reply that brings no lease lifts a fence, also that of a partition actor that knows nothing yet."""

    def receive(self, reply):
        changes = _receive(self, reply)
        if changes is not None and not reply["exclusive_lease"]:
            self._fenced.clear()
        return changes

    patch.setattr(MemberState, "receive", receive)


def fenced_ended_without_proof(patch: Any) -> None:
    """Rule 8: a partition actor that may have been replaced takes fenced members out of their groups."""

    def end_overdue(self, now):
        for key, name in list(self._overdue_fences):
            self._leave_group(now, key, self.sessions[key], name)
        _end_overdue(self, now)

    _end_overdue = Membership._end_overdue
    patch.setattr(Membership, "_end_overdue", end_overdue)


def lapse_in_one_group_not_told(patch: Any) -> None:
    """Rule 7: a restarted partition actor renews a lease that has ended in one group only."""

    def of(cls, report, request, *rest):
        return _of(cls, {name: said for name, said in report.items() if name != "lapsed"}, request, *rest)

    patch.setattr(Report, "of", classmethod(of))


def no_recovery_wait(patch: Any) -> None:
    """Rule 7: a restarted partition actor believes that it is the first."""

    def init(self, *arguments, **how):
        _init(self, *arguments, **{**how, "first": True, "restarted": False})

    patch.setattr(Membership, "__init__", init)


def recovery_wait_of_the_shortest_lease(patch: Any) -> None:
    """Rule 7: a restarted partition actor waits for one ttl instead of the longest lease."""

    def init(self, settings, *arguments, **how):
        _init(self, settings, *arguments, **{**how, "longest": settings.ttl})

    patch.setattr(Membership, "__init__", init)


def longer_lease_before_the_record(patch: Any) -> None:
    """Rule 7: a partition actor grants longer leases than it has recorded."""

    def set_pace(self):
        allowed, self.longest_allowed = self.longest_allowed, float("inf")
        _set_pace(self)
        self.longest_allowed = allowed

    _set_pace = Membership._set_pace
    patch.setattr(Membership, "_set_pace", set_pace)


def longer_lease_without_a_later_proof(patch: Any) -> None:
    """Rule 8: a lease may be as long as the record says, though another partition actor may have read it before."""

    def on_record(self, longest):
        self.membership.longest_allowed = max(self.membership.longest_allowed, longest)
        self.membership._set_pace()
        _on_record(self, longest)

    _on_record = SimulatedPartitionActor._on_record
    patch.setattr(SimulatedPartitionActor, "_on_record", on_record)


def former_settled_before_the_wait(patch: Any) -> None:
    """Rule 7: a restarted partition actor records at once that the leases of its predecessors are over."""
    patch.setattr(Membership, "former_are_over", lambda self, now: True)


def lease_before_views_are_known(patch: Any) -> None:
    """Rule 7: a lease is granted on views that the partition actor does not know or that nobody waits for."""
    patch.setattr(Membership, "_is_unverified", lambda self, key, session, name: False)


def lease_before_a_view_that_was_left_out(patch: Any) -> None:
    """Rule 7: one who had expired gets a lease for the view that it held, as the reply leaves the next one out."""

    def is_unverified(self, key, session, name):
        state, found = session.states[name], self.groups.get(name)
        if found is None or not found.exclusive or state.have is None or state.watches:
            return False
        participant = found.participants.get(key)
        return participant is None or participant.acked is None or state.want_views

    patch.setattr(membership, "TOLD_AT_ONCE", 1)
    patch.setattr(Membership, "_is_unverified", is_unverified)


def lapsed_lease_brought_back(patch: Any) -> None:
    """Rule 7: a restarted partition actor renews a lease that has ended."""

    def of(cls, report, request, *rest):
        return _of(cls, report, {**request, "leased": True}, *rest)

    patch.setattr(Report, "of", classmethod(of))


def views_of_the_past_not_learnt(patch: Any) -> None:
    """Rule 7: a restarted partition actor does not learn what laggards may act on."""
    patch.setattr(Handoff, "learn", lambda self, epoch, members: None)


def lease_for_an_unknown_request(patch: Any) -> None:
    """Rule 7: a restarted partition actor renews a lease for a short request that repeats one it never received."""

    def sync(self, now, request, where=None):
        session = self.sessions.get((request["member"], request["session"]))
        if "same" in request and (session is None or session.whole is None or session.whole["seq"] != request["same"]):
            request = {**request, "interval": self.interval, "leased": True, "groups": {}}
            del request["same"]
        return _sync(self, now, request, where)

    _sync = Membership.sync
    patch.setattr(Membership, "sync", sync)


def proof_ignored(patch: Any) -> None:
    """Rule 8: a partition actor cut off from the GCS goes on granting leases."""

    def prove(self, at, recorded=0.0):
        _prove(self, float("inf"), recorded)

    _prove = Membership.prove
    patch.setattr(Membership, "prove", prove)


def leases_ended_without_proof(patch: Any) -> None:
    """Rule 8: a partition actor cut off from the GCS ends leases that its successor may have renewed."""

    def end_overdue(self, now):
        for key in list(self._overdue):
            self._end(key, now)

    patch.setattr(Membership, "_end_overdue", end_overdue)


def incarnation_ignored(patch: Any) -> None:
    """Rule 8: a member follows any partition actor that answers, even if it has heard of a later one."""
    patch.setattr(Membership, "_advance_incarnation", lambda self, now, incarnation: None)

    def receive(self, reply):
        if reply["seq"] == self._seq and reply["incarnation"] < self.incarnation:
            self.incarnation = reply["incarnation"]
            for name, entry in reply["groups"].items():
                if "view" in entry:
                    self.groups[name].views = []
        return _receive(self, reply)

    patch.setattr(MemberState, "receive", receive)


def later_incarnation_exceeded(patch: Any) -> None:
    """Rule 8: an old partition actor exceeds the incarnation of its successor."""

    def advance(self, now, incarnation):
        self.incarnation, self._counter = incarnation + 1, 0

    patch.setattr(Membership, "_advance_incarnation", advance)


def token_without_incarnation(patch: Any) -> None:
    """Rule 9: a fencing token is the epoch's counter."""
    patch.setattr("partition_actor.core.member.fencing_token", lambda epoch: epoch[1])


def lock_granted_during_recovery(patch: Any) -> None:
    """Rule 10: a restarted partition actor grants locks before former holders have had time to report."""

    def tick(self, now):
        _tick(self, now)
        self.locks.grant(self._may_hold, self._next_epoch)

    _tick = Membership.tick
    patch.setattr(Membership, "tick", tick)


def lock_granted_without_proof(patch: Any) -> None:
    """Rule 10: a partition actor that may have been replaced grants locks when its wait is over."""

    def tick(self, now):
        _tick(self, now)
        if not self.recovering(now):
            self.locks.grant(self._may_hold, self._next_epoch)

    _tick = Membership.tick
    patch.setattr(Membership, "tick", tick)


def lock_freed_without_proof(patch: Any) -> None:
    """Rule 10: a partition actor cut off from the GCS ends sessions that hold locks."""

    def end_overdue(self, now):
        for key in list(self._overdue):
            groups = [self.groups[name] for name in self.sessions[key].groups if name in self.groups]
            if not any(group.exclusive for group in groups):
                self._end(key, now)
        _end_overdue(self, now)

    _end_overdue = Membership._end_overdue
    patch.setattr(Membership, "_end_overdue", end_overdue)


def lapsed_hold_goes_on(patch: Any) -> None:
    """Rule 10: a member believes that it holds its locks after its lease is over."""
    patch.setattr(MemberState, "_mind_lapse", lambda self, now: None)
    patch.setattr(MemberState, "locks_held", lambda self, now: self.locks.held())


def broken_lock_free_at_once(patch: Any) -> None:
    """Rule 10: a broken lock goes to the next before its holder knows."""

    def break_(self, now, name):
        broken = self.holders(name)
        for claim in broken:
            self._drop(claim)
            claim.token, claim.verdict = 0, "lost"
            self._news.add(claim.key)
        return broken

    patch.setattr(LockTable, "break_", break_)


def lease_before_holds_are_known(patch: Any) -> None:
    """Rule 10: a restarted partition actor renews a lease before it knows which locks the session holds."""

    def take(self, key, stated, **how):
        _take(self, key, stated, **how)
        self.unverified.clear()

    patch.setattr(LockTable, "take", take)


def holds_not_learnt(patch: Any) -> None:
    """Rule 10: a restarted partition actor renews the leases of lock holders but does not learn their locks."""

    def take_hold(self, claim, token, *, recovering, trusted):
        claim.token, claim.told = token, True
        self._claims[claim.key].pop(claim.ticket)

    patch.setattr(LockTable, "_take_hold", take_hold)


def group_changes_without_their_base(patch: Any) -> None:
    """Rule 7: a partition actor takes the changes that a session tells for all its groups, whatever they refer to."""

    def sync(self, now, request, where=None):
        session = self.sessions.get((request["member"], request["session"]))
        if "groups_base" in request and (session is None or session.whole is None):
            request = {**request, "groups_base": 0}
        return _sync(self, now, request, where)

    _sync = Membership.sync
    patch.setattr(Membership, "sync", sync)


def lock_changes_without_their_base(patch: Any) -> None:
    """Rule 10: a restarted partition actor takes changes of locks for all locks of a session."""

    def sync(self, now, request, where=None):
        session = self.sessions.get((request["member"], request["session"]))
        if "locks_base" in request and (session is None or session.whole is None):
            request = {**request, "locks_base": 0}
        return _sync(self, now, request, where)

    _sync = Membership.sync
    patch.setattr(Membership, "sync", sync)


def shared_beside_exclusive(patch: Any) -> None:
    """Rule 10: nobody keeps out a request to share a lock."""
    patch.setattr(LockRecord, "keeps_out", lambda self, claim: bool(self.holders) and not claim.shared)


def lock_token_without_incarnation(patch: Any) -> None:
    """Rule 10: the token of a lock is the counter of the partition actor that granted it."""
    patch.setattr("partition_actor.core.lock_table.fencing_token", lambda epoch: epoch[1])


def callbacks_acknowledged_when_they_begin(patch: Any) -> None:
    """Rule 3: an epoch is acknowledged when the callbacks for lost keys begin."""

    def next_delivery(self):
        delivery = _next_delivery(self)
        if delivery is not None:
            self.lost_returned(delivery.session._sent or 0.0, delivery)
        return delivery

    patch.setattr(MemberDriver, "next_delivery", next_delivery)


def callbacks_run_beside_each_other(patch: Any) -> None:
    """Rule 3: `run_watchers` within a callback runs the next callbacks of the same group."""

    def next_delivery(self):
        running, self._running = self._running, {}
        delivery = _next_delivery(self)
        self._running = {**running, **self._running}
        return delivery

    def returned(self, delivery):
        self._running.pop(delivery.queue, None)
        self._close_if_done(delivery.session)

    patch.setattr(MemberDriver, "next_delivery", next_delivery)
    patch.setattr(MemberDriver, "returned", returned)


def callbacks_run_in_the_wrong_order(patch: Any) -> None:
    """Rule 3: the latest callbacks of a group run first."""

    def next_delivery(self):
        for waiting in self._queues.values():
            waiting.reverse()
        delivery = _next_delivery(self)
        for waiting in self._queues.values():
            waiting.reverse()
        return delivery

    patch.setattr(MemberDriver, "next_delivery", next_delivery)


def acknowledged_while_a_call_runs(patch: Any) -> None:
    """Rule 3: an epoch is acknowledged though a guarded call runs on a lost key."""
    patch.setattr(MemberDriver, "_is_at_work", lambda self, now, session, group: False)


def running_calls_forgotten(patch: Any) -> None:
    """Rule 3: a guarded call is not noted when it begins."""

    def begin_call(self, *arguments):
        call = _begin_call(self, *arguments)
        self._calls.clear()
        return call

    patch.setattr(MemberDriver, "begin_call", begin_call)


def callbacks_acknowledged_for_the_next_session(patch: Any) -> None:
    """Rule 3: the callbacks of a session that has ended count for the one that the user started since."""

    def lost_returned(self, now, delivery):
        if delivery.epoch is not None:
            held = self.session.groups.get(delivery.group)
            if held is not None and held.view is not None:
                self._note_returned(now, self.session, delivery.group, held.view.epoch)

    patch.setattr(MemberDriver, "lost_returned", lost_returned)


def stopped_member_goes_on(patch: Any) -> None:
    """Rule 4: a member is permitted what its session is, also after `stop`."""
    patch.setattr(MemberDriver, "_permitted", lambda self, process: self.session)
    patch.setattr(MemberState, "end", lambda self: self.locks.clear())


def forked_child_permitted(patch: Any) -> None:
    """Rule 4: a forked child is permitted what its parent is."""
    patch.setattr(MemberDriver, "is_current", lambda self, process: self._active)


def calls_not_checked(patch: Any) -> None:
    """Rule 4: a guarded call begins whoever owns its keys."""

    def begin_call(self, now, process, group, keys):
        return GuardedCall(group, self.session, keys)

    patch.setattr(MemberDriver, "begin_call", begin_call)


def leaving_session_acknowledges_at_once(patch: Any) -> None:
    """Rule 3: a session that was stopped acknowledges before its callbacks have returned."""

    def take(self, now, session, change):
        _take_change(self, now, session, change)
        if session in self._leaving and change.after is not None:
            self._note_returned(now, session, change.group, change.after.epoch)

    _take_change = MemberDriver._take
    patch.setattr(MemberDriver, "_take", take)


def close_of_the_wrong_session(patch: Any) -> None:
    """Rule 5: `stop` closes the session that the user has started since."""

    def close_if_done(self, session):
        closing = len(self._actions.close)
        _close_if_done(self, session)
        if len(self._actions.close) > closing:
            self._actions.close[-1] = self.session

    _close_if_done = MemberDriver._close_if_done
    patch.setattr(MemberDriver, "_close_if_done", close_if_done)


def closed_before_callbacks_have_returned(patch: Any) -> None:
    """Rule 5: a session is closed while its callbacks run."""

    def close_if_done(self, session):
        running, self._running = self._running, {}
        queues, self._queues = self._queues, {}
        _close_if_done(self, session)
        self._running, self._queues = running, queues

    _close_if_done = MemberDriver._close_if_done
    patch.setattr(MemberDriver, "_close_if_done", close_if_done)


def closed_before_calls_have_returned(patch: Any) -> None:
    """Rule 5: a session is closed while its guarded calls run."""

    def close_if_done(self, session):
        calls, self._calls = self._calls, set()
        _close_if_done(self, session)
        self._calls = calls

    _close_if_done = MemberDriver._close_if_done
    patch.setattr(MemberDriver, "_close_if_done", close_if_done)


def acknowledged_before_group_watchers(patch: Any) -> None:
    """Rule 3: who only watches a group is not waited for."""

    def run(self, delivery):
        if delivery.elected is None and not self._listeners.get(delivery.group):
            with self._session.event() as driver:
                driver.lost_returned(self._session.now(), delivery)
        yield from _run(self, delivery)

    _run = Callbacks._run
    patch.setattr(Callbacks, "_run", run)


def session_that_is_over_goes_on(patch: Any) -> None:
    """Rule 5: a session that is over sends one more request, which names no group, while its callbacks run."""
    patch.setattr(MemberDriver, "request", lambda self, now, session: session.request(now))


def token_after_stop(patch: Any) -> None:
    """Rule 9: a member that was stopped has a fencing token."""
    patch.setattr(MemberDriver, "token", lambda self, now, process, group: self.session.token(now, group))


def lead_told_again(patch: Any) -> None:
    """Rule 10: callbacks of an election are told of one lead with every reply."""

    def announce(self, now):
        for candidacy in self._candidacies.values():
            for each in candidacy.callbacks:
                each[1] = 0
        _announce(self, now)

    _announce = MemberDriver._announce
    patch.setattr(MemberDriver, "_announce", announce)


def disorderly_end_trusted(patch: Any) -> None:
    """Rule 11: every former partition actor counts as one that has ended in good order."""
    patch.setattr("partition_actor.testing.partition_actors.longest_lease", lambda lives: 0.0)


def ended_before_members_have_let_go(patch: Any) -> None:
    """Rule 11: a partition actor that is shut down ends at once."""
    patch.setattr(Membership, "is_settled", lambda self: self.is_ending)


def ended_before_the_wait_is_over(patch: Any) -> None:
    """Rule 11: a partition actor that is shut down while it recovers waits for its own leases only."""

    def is_settled(self):
        recovery_end, self._recovery_end = self._recovery_end, None
        settled = _is_settled(self)
        self._recovery_end = recovery_end
        return settled

    _is_settled = Membership.is_settled
    patch.setattr(Membership, "is_settled", is_settled)


def lease_granted_while_ending(patch: Any) -> None:
    """Rule 11: a partition actor that is shut down grants a lease to those who have let go."""

    def has_let_go(self, session):
        return self.is_ending and session.whole is not None and bool(session.whole.get("withdrawn"))

    def renew(self, now, key, session):
        _renew(self, now, key, session)
        if has_let_go(self, session):
            session.lease = self.ttl

    def reply(self, now, session, seq):
        told = _reply(self, now, session, seq)
        if has_let_go(self, session):
            told.pop("withdrawn", None)
        return told

    _renew, _reply = Membership._renew, Membership.reply
    patch.setattr(Membership, "_renew", renew)
    patch.setattr(Membership, "reply", reply)
    patch.setattr(Membership, "has_news", lambda self, key: True)


def let_go_before_callbacks_have_returned(patch: Any) -> None:
    """Rule 11: a member says that it has let go while its callbacks and guarded calls run."""

    def mind_withdrawal(self):
        if self.session is not None and self.session.withdrawn and not self.session.has_let_go:
            self.session.has_let_go = True
            self._send(self.session)

    patch.setattr(MemberDriver, "_mind_withdrawal", mind_withdrawal)


def withdrawn_lease_goes_on(patch: Any) -> None:
    """Rule 11: a member acknowledges that its leases were withdrawn, and acts on."""
    patch.setattr(MemberState, "_withdraw", lambda self: setattr(self, "withdrawn", True))


def bare_caller_told_of_a_shorter_ttl(patch: Any) -> None:
    """Rule 12: a shorter ttl is taken to hold for bare callers too."""

    def set_pace(self):
        _set_pace(self)
        self._bare_lease = self._lease

    patch.setattr(Membership, "_set_pace", set_pace)


def former_ttl_forgotten_by_a_restart(patch: Any) -> None:
    """Rule 12: a partition actor that Ray restarts knows only the latest settings."""

    def init(self, *arguments, **options):
        _init(self, *arguments, **{**options, "longest_told": 0.0})

    patch.setattr(Membership, "__init__", init)


def ttl_grown_before_the_record(patch: Any) -> None:
    """Rule 12: a longer ttl applies before there is a record of such a lease."""

    def configure(self, settings, version):
        self.membership.longest_allowed = max(self.membership.longest_allowed, settings.ttl)
        return _configure(self, settings, version)

    patch.setattr(MembershipDriver, "configure", configure)


def one_that_has_handed_over_goes_on(patch: Any) -> None:
    """Rule 13: a partition actor answers and grants after it has handed its state over."""
    patch.setattr(
        MembershipDriver, "is_handed_over", property(lambda self: False, lambda self, value: None), raising=False
    )


def leases_not_handed_over(patch: Any) -> None:
    """Rule 13: the next partition actor takes every lease for over."""

    def session_state(self, now, session, leases):
        return {**_session_state(self, now, session, leases), "left": 0.0}

    patch.setattr(Membership, "_session_state", session_state)


def acknowledgements_not_handed_over(patch: Any) -> None:
    """Rule 13: the next partition actor takes the published epoch for acknowledged."""

    def restore(self, state, now):
        for each in state["participants"].values():
            each["acked"] = state["epoch"]
        state["handoff"]["laggards"], state["handoff"]["unfinished"] = [], {}
        _restore_group(self, state, now)

    patch.setattr(Group, "restore", restore)


def earlier_rings_not_handed_over(patch: Any) -> None:
    """Rule 13: the next partition actor does not know what laggards may act on."""

    def restore(self, state, epoch, *others):
        kept = {at: members for at, members in state["history"].items() if at == epoch}
        _restore_handoff(self, {**state, "history": kept, "joined": {}}, epoch, *others)

    patch.setattr(Handoff, "restore", restore)


def answers_not_handed_over(patch: Any) -> None:
    """Rule 13: the next partition actor does not know which bare callers were answered."""
    patch.setattr(MembershipDriver, "take_over", lambda self, now, state: None)


def locks_not_handed_over(patch: Any) -> None:
    """Rule 13: the next partition actor does not know who holds a lock."""
    patch.setattr(LockTable, "restore", lambda self, state, now: None)


def former_settled_after_a_hand_over(patch: Any) -> None:
    """Rule 13: what the former partition actor has granted is on record as over as soon as it has handed over."""

    def restore(self, state, now):
        _restore_membership(self, {**state, "former": 0.0}, now)

    patch.setattr(Membership, "_restore", restore)


def told_ttl_not_recorded_after_a_hand_over(patch: Any) -> None:
    """Rule 13: the next one records leases of its own settings, though bare callers still go by a longer ttl."""

    def restore(self, state, now):
        allowed = self.longest_allowed
        _restore_membership(self, state, now)
        self.longest_allowed = allowed
        self._set_pace()

    patch.setattr(Membership, "_restore", restore)


def drained_by_its_node_released_at_once(patch: Any) -> None:
    """Rule 14: a member on a draining node holds nothing any more, whatever it has acknowledged."""

    def take_off_draining(self, group, now):
        before = list(group.next_ring.items())
        _take_off_draining(self, group, now)
        for member, (_, session) in before:
            if member not in group.next_ring:
                group.remove((member, session), now)

    patch.setattr(Membership, "_take_off_draining", take_off_draining)


def member_stays_on_a_draining_node(patch: Any) -> None:
    """Rule 14: a drained node is looked at when the next epoch is due, not when the drain begins."""
    patch.setattr(Membership, "_drain_some", lambda self, now: self._to_drain.clear())


def drain_is_for_ever(patch: Any) -> None:
    """Rule 14: a drain that is taken back still keeps members out."""

    def draining(self, now, nodes, dead=frozenset()):
        _draining(self, now, {**self.draining_nodes(now), **nodes}, dead)

    patch.setattr(Membership, "draining", draining)


def those_that_wait_are_not_asked_again(patch: Any) -> None:
    """Rule 14: a member that waits for the end of a drain joins only if it has something else to say."""

    def draining(self, now, nodes, dead=frozenset()):
        self._draining = dict(nodes)
        self._to_drain.update(dict.fromkeys(self.groups))
        self.tick(now)

    patch.setattr(Membership, "draining", draining)


def those_that_are_replaced_stay_for_ever(patch: Any) -> None:
    """Rule 14: a member that says that it is being replaced keeps its place until its node ends."""
    patch.setattr(Membership, "_may_stay", lambda self, session: session.stays)


def slot_granted_during_recovery(patch: Any) -> None:
    """Rule 15: a restarted partition actor gives the lowest number before former holders have had time to report."""

    def tick(self, now):
        _tick(self, now)
        if self._recovery_end is not None:
            others = {name: None for name in self.locks.due if slot_of(name) is None}
            for name in others:
                del self.locks.due[name]
            self.locks.grant(self._may_hold, self._next_epoch)
            self.locks.due.update(others)

    _tick = Membership.tick
    patch.setattr(Membership, "tick", tick)


def slot_used_after_the_lease(patch: Any) -> None:
    """Rule 15: a member uses its slot after its lease is over."""

    def slots(self, now, process):
        session = self._permitted(process)
        held = {} if session is None else session.locks.held()
        return {
            group: held[wish.ticket]
            for (owner, group), wish in self._slots.items()
            if owner is session and wish.ticket in held
        }

    patch.setattr(MemberState, "_mind_lapse", lambda self, now: None)
    patch.setattr(MemberDriver, "slots", slots)


def slot_free_before_callbacks_have_returned(patch: Any) -> None:
    """Rule 15: a member that is out of a group lets go of its slot while callbacks for lost keys run."""

    def is_busy(self, session, group=None):
        return group is None and _is_busy(self, session)

    _is_busy = MemberDriver._is_busy
    patch.setattr(MemberDriver, "_is_busy", is_busy)


def slot_free_at_stop(patch: Any) -> None:
    """Rule 15: a member that is stopped lets go of its slot at once."""
    patch.setattr(MemberDriver, "_slot_tickets", lambda self, session: set())


def slot_kept_without_its_group(patch: Any) -> None:
    """Rule 15: a member keeps its slot when it is out of the group."""

    def mind_slots(self, now):
        self._slots = {key: wish for key, wish in self._slots.items() if not self.is_over(key[0])}
        for (session, group), wish in self._slots.items():
            held = session.groups.get(group)
            if held is not None and held.state in ("joining", "member"):
                self._ask(session, wish, is_wanted=held.want == "in")

    patch.setattr(MemberDriver, "_mind_slots", mind_slots)


def slot_stated_without_its_number(patch: Any) -> None:
    """Rule 15: a member that has asked for any slot does not say which it holds."""

    def report(self, ticket):
        told = _report(self, ticket)
        slot = None if told is None else slot_of(told["name"])
        if told is None or slot is None or not told["token"]:
            return told
        return {**told, "name": slot_name(slot.space, None)}

    _report = LockRequests._report
    patch.setattr(LockRequests, "_report", report)


def number_given_that_somebody_has(patch: Any) -> None:
    """Rule 15: a partition actor that goes on for another does not know which numbers are taken."""

    def restore(self, state, now):
        _restore(self, state, now)
        for numbers in self._numbers.values():
            before = set(numbers.taken)
            numbers.lowest = lambda numbers=numbers, before=before: min({*range(99)} - (numbers.taken - before))

    _restore = LockTable.restore
    patch.setattr(LockTable, "restore", restore)


def numbers_given_above_a_hole(patch: Any) -> None:
    """Rule 15: numbers that were given back are not given again."""
    patch.setattr(FreeNumbers, "lowest", lambda self: max(self.taken, default=-1) + 1)


def slot_lost_for_ever(patch: Any) -> None:
    """Rule 15: a slot that was lost with the lease is not asked for again."""

    def ask(self, session, wish, *, is_wanted):
        if session.locks.state(wish.ticket) != "lost":
            _ask(self, session, wish, is_wanted=is_wanted)

    _ask = MemberDriver._ask
    patch.setattr(MemberDriver, "_ask", ask)


def worker_ended_before_it_has_handed_over(patch: Any) -> None:
    """Rule 16: a worker that is to go is ended at once."""

    def retire(self, worker, now):
        self._end(worker, now)

    patch.setattr(FleetState, "_retire", retire)


def two_workers_in_a_slot(patch: Any) -> None:
    """Rule 16: another worker joins in a slot whose worker stays."""
    patch.setattr(FleetState, "_drains", lambda self, node: node is not None)


def scaled_below_the_least(patch: Any) -> None:
    """Rule 16: a fleet without load has no workers."""
    patch.setattr(Scaler, "_within", lambda self, size: min(self.rule.max, size))


def update_of_all_at_once(patch: Any) -> None:
    """Rule 16: an update does not mind how many slots are without a worker."""

    def roll(self, now, wanted):
        self.max_unavailable, allowed = len(wanted), self.max_unavailable
        _roll(self, now, wanted)
        self.max_unavailable = allowed

    _roll = FleetState._roll
    patch.setattr(FleetState, "_roll", roll)


MUTANTS = [
    value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__doc__", None) and str(value.__doc__).startswith("Rule ")
]
