"""The cost of the partition actor's state machine alone: ``partition_actor.core.driver`` without Ray.

Members are spread evenly over groups and send the heartbeats of idle members at the promised rate. Requests are made
before and replies are read after the timed part, which is only what the partition actor runs for a heartbeat. Then 100
members fall silent, which measures the cost of expiring them and publishing that, and of a step in which nobody
expires. The benchmark moves the clock; costs are CPU time, medians of repeats.
"""

from __future__ import annotations

import gc
import pickle
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from _report import Target, arguments, save, show, show_targets

from partition_actor.core.driver import MembershipDriver
from partition_actor.core.member import MemberState
from partition_actor.core.membership import Membership
from partition_actor.core.messages import Reply, Request, SessionKey, ShortRequest
from partition_actor.settings import Settings

JUST_BEFORE = 0.05
"""Every step is timed from this many seconds before the first lease ends."""
STEP = 0.01
"""Seconds between two timed steps."""
IDLE_STEPS = 1000
AT_ONCE = 1000
"""Heartbeats per timed batch, few enough that requests stay in the CPU cache, like one that was just received."""
GROUPS_AT_ONCE = 10
"""Groups whose members join at the same moment. A burst in a thousand groups at once is not measured here."""


@dataclass(frozen=True)
class Plan:
    """Sizes as (members, groups). Small sizes repeat their rounds until each repeat has ``heartbeats``."""

    sizes: tuple[tuple[int, int], ...] = ((1_000, 10), (10_000, 100), (100_000, 1_000))
    bursts: tuple[tuple[int, int], ...] = ((1_000, 10), (10_000, 100))
    heartbeats: int = 100_000
    repeats: int = 5
    silent: int = 100


QUICK = Plan(((100, 1), (1_000, 10)), ((100, 1), (1_000, 10)), 1_000, 2, 10)
PROMISED = 200_000
"""Heartbeats per second; also the rate at which they are sent."""


class Crowd:
    """The state machines of a partition actor and of its members, which have accepted every reply."""

    def __init__(self, members: int, groups: int, at_once: int, *, exclusive: bool = False, **settings: Any) -> None:
        # Heartbeats do not use the hash ring. One virtual node per member makes the start fast.
        self.settings = Settings(max_members=members, vnodes=1, **settings)
        self.now = 0.0
        self.driver = MembershipDriver(Membership(self.settings, incarnation=1, now=self.now, first=True))
        self.members = [MemberState(f"member-{i}", f"session-{i}", self.settings) for i in range(members)]
        for at, member in enumerate(self.members):
            member.join(f"group-{at % groups}", exclusive=exclusive)
        self._prove()
        self.join_seconds = sum(
            self._join([member for group in range(first, first + at_once) for member in self.members[group::groups]])
            for first in range(0, groups, at_once)
        )
        self._take_replies()
        self.catch_up()

    def _join(self, members: list[MemberState]) -> float:
        """Let these members join at the same moment; returns the CPU seconds."""
        requests = [member.request(self.now) for member in members]
        took = cpu_seconds(lambda: [self.driver.request(self.now, request) for request in requests])
        self.wait(2 * self.settings.publish_window)
        return took

    def _take_replies(self) -> int:
        """Publish what is due and let every member accept it; returns how many had news."""
        self.wait(2 * self.settings.publish_window)
        told = 0
        for member in self.members:
            told += accept(member, self.driver.reply(self.now, (member.member_id, member.session), sequence_of(member)))
        return told

    def _prove(self) -> None:
        self.driver.proof(self.now, self.now)
        self._proven = self.now

    def advance(self, seconds: float) -> None:
        """Advance the clock, and give the proof that the partition actor asks for at intervals."""
        self.now += seconds
        if self.now >= self._proven + self.settings.node_proof_interval:
            self._prove()

    def wait(self, seconds: float) -> None:
        """Let time pass in steps that are too short to count as a stall."""
        until = self.now + seconds
        while self.now < until:
            self.advance(min(until - self.now, self.settings.hold / 4))
            self.step()

    def step(self) -> bool:
        """Fire the partition actor's timer; returns whether any session ended or had news."""
        self.driver.timer(self.now)
        return self._act() > 0

    def _act(self) -> int:
        """Do what the partition actor does after an event; returns for how many sessions."""
        actions = self.driver.actions(self.now)
        self._wake_at = actions.wake_at
        return len(actions.answer) + len(actions.unwatch)

    def round(self, members: list[MemberState], per_heartbeat: float) -> float:
        """One idle heartbeat of each member, so many seconds apart; returns the CPU seconds."""
        batches = [members[first : first + AT_ONCE] for first in range(0, len(members), AT_ONCE)]
        return sum(self._batch(batch, per_heartbeat) for batch in batches)

    def _batch(self, members: list[MemberState], per_heartbeat: float) -> float:
        requests = [received(member.request(self.now + at * per_heartbeat)) for at, member in enumerate(members, 1)]
        replies: list[Reply | None] = []
        keys = [(member.member_id, member.session) for member in members]
        took = cpu_seconds(lambda: self._serve(keys, requests, per_heartbeat, replies))
        for member, reply in zip(members, replies, strict=True):
            if accept(member, reply):
                raise SystemExit(f"{member.member_id} received news: that was not an idle heartbeat")
        return took

    def _serve(
        self,
        keys: list[SessionKey],
        requests: list[Request | ShortRequest],
        per_heartbeat: float,
        replies: list[Reply | None],
    ) -> None:
        """What ``PartitionActor.sync`` does with held heartbeats without news, but for the wait."""
        driver = self.driver
        for key, request in zip(keys, requests, strict=True):
            self.advance(per_heartbeat)
            if self.now >= self._wake_at:
                self.step()
            driver.request(self.now, request)
            if driver.has_actions:
                self._act()
            replies.append(driver.reply(self.now, key, request["seq"]))

    def expire(self, silent: int, groups: int) -> float:
        """Let leases of `silent` members of the first `groups` end; returns the CPU seconds of the steps that end them.

        With the same number of groups, the same news goes to as many members, however many others there are.
        """
        affected = {f"group-{number}" for number in range(groups)}
        gone = [member for member in self.members if member.groups.keys() <= affected][:silent]
        expiring = {member.member_id for member in gone}
        self.members = [member for member in self.members if member.member_id not in expiring]
        left = len(self.driver.membership.sessions) - silent
        for member in gone:
            self.driver.request(self.now, member.request(self.now))
        lease = self.driver.membership.lease_left(self.now, (gone[0].member_id, gone[0].session))
        pace = self.driver.membership.interval / len(self.members)
        self.wait(lease / 2)
        self.round(self.members, pace)
        self.wait(self.driver.membership.lease_left(self.now, (gone[0].member_id, gone[0].session)) - JUST_BEFORE)
        took = 0.0
        for _ in range(round(2 * self.settings.ttl / STEP)):
            self.advance(STEP)
            before, start = len(self.driver.membership.sessions), time.process_time()
            told = self.step()
            if told or len(self.driver.membership.sessions) < before:
                took += time.process_time() - start
            elif before == left:
                return took
        raise SystemExit(f"{len(self.driver.membership.sessions) - left} of {silent} silent members have not expired")

    def idle_step(self) -> float:
        """CPU seconds of a step in which nothing happens."""
        step = self.step

        def steps() -> None:
            for _ in range(IDLE_STEPS):
                self.advance(0.0001)
                step()

        return cpu_seconds(steps) / IDLE_STEPS

    def catch_up(self) -> None:
        """Continue until no member has news, so that the next heartbeats are idle ones."""
        while True:
            for member in self.members:
                self.driver.request(self.now, member.request(self.now))
            if not self._take_replies():
                return


def received(request: Request | ShortRequest) -> Request | ShortRequest:
    """The request as received: equal to what was sent, but not the same object."""
    copy: Request | ShortRequest = pickle.loads(pickle.dumps(request))
    return copy


def sequence_of(member: MemberState) -> int:
    """The number of the member's latest request."""
    return member._seq


def accept(member: MemberState, reply: Reply | None) -> bool:
    """Give the member a reply and acknowledge it at once; returns whether that changed anything."""
    changes = None if reply is None else member.receive(reply)
    if changes is None:
        raise SystemExit(f"{member.member_id} does not accept the reply to its latest request")
    for change in changes:
        if change.after is not None:
            member.acknowledge(change.group, change.after.epoch)
    return bool(changes)


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(members: int, groups: int, plan: Plan, *, exclusive: bool) -> dict[str, Any]:
    crowd = Crowd(members, groups, GROUPS_AT_ONCE, exclusive=exclusive, max_heartbeats_per_second=PROMISED)
    pace = crowd.driver.membership.interval / members
    rounds = max(1, plan.heartbeats // members)
    beats = [sum(crowd.round(crowd.members, pace) for _ in range(rounds)) for _ in range(plan.repeats)]
    idle = [crowd.idle_step() for _ in range(plan.repeats)]
    expiries = []
    for _ in range(plan.repeats):
        expiries.append(crowd.expire(plan.silent, plan.sizes[0][1]) / plan.silent)
        crowd.catch_up()
    return {
        "members": members,
        "groups": groups,
        "exclusive": exclusive,
        "heartbeats_per_second": members * rounds / statistics.median(beats),
        "idle_step_seconds": statistics.median(idle),
        "seconds_per_expired_member": statistics.median(expiries),
    }


def burst(members: int, groups: int) -> dict[str, Any]:
    """All members join within one publish window at default settings: interval and lease grow with each of them."""
    crowd = Crowd(members, groups, groups)
    return {"members": members, "groups": groups, "joins_per_second": members / crowd.join_seconds}


def cells(row: dict[str, Any]) -> list[object]:
    return [
        "exclusive" if row["exclusive"] else "plain",
        row["members"],
        row["groups"],
        row["heartbeats_per_second"],
        1e6 * row["idle_step_seconds"],
        1e6 * row["seconds_per_expired_member"],
    ]


def promises(rows: list[dict[str, Any]]) -> list[Target]:
    """The promises about the largest size; where growth matters, against the smallest."""
    plain = [row for row in rows if not row["exclusive"]]
    least, most = plain[0], plain[-1]
    largest = [row for row in rows if row["members"] == most["members"]]
    size = f"at {most['members']:,} members"
    idle = most["idle_step_seconds"] / least["idle_step_seconds"]
    expiry = most["seconds_per_expired_member"] / least["seconds_per_expired_member"]
    slowest = min(row["heartbeats_per_second"] for row in largest)
    return [
        Target(f"heartbeats a second {size}", PROMISED, slowest, "/s"),
        Target(f"a step without expiry {size} over one at {least['members']:,}", 2, idle, at_least=False),
        Target(f"an expired member {size} over one at {least['members']:,}", 2, expiry, at_least=False),
    ]


def main() -> None:
    options = arguments(__doc__)
    plan = QUICK if options.quick else Plan()
    gc.disable()  # as in timeit: it would scan objects that only the benchmark holds
    rows = [measure(*size, plan, exclusive=False) for size in plan.sizes]
    rows.append(measure(*plan.sizes[-1], plan, exclusive=True))
    columns = ["groups are", "members", "groups", "heartbeats/s", "idle step, µs", "an expired member, µs"]
    show("The partition actor's state machine alone", columns, map(cells, rows))
    bursts = [burst(*size) for size in plan.bursts]
    show("A burst of joins", ["members", "groups", "joins/s"], [list(row.values()) for row in bursts])
    targets = promises(rows)
    show_targets(targets)
    save("core", options.out, options.quick, ["partition-actor"], targets, {"core": rows, "bursts": bursts})


if __name__ == "__main__":
    main()
