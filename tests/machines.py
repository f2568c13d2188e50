"""The two state machines on one clock, with a network that the test decides on."""

from __future__ import annotations

import pickle
from typing import Any

from partition_actor.core.driver import MembershipDriver
from partition_actor.core.events import Where
from partition_actor.core.member import Change, MemberState
from partition_actor.core.membership import Membership
from partition_actor.core.messages import check_request
from partition_actor.errors import PartitionError
from partition_actor.settings import Settings
from partition_actor.testing import FakeClock

KEYS = [f"key-{number}" for number in range(12)]

PLAIN = Settings(
    ttl=10.0,
    hold=2.0,
    clock_rate_margin=0.1,
    handoff_timeout=5.0,
    publish_window=0.0,
    vnodes=4,
    node_proof_interval=1.0,
)


class World:
    """A partition actor that is proven whenever the test says so, and members."""

    def __init__(self, settings: Settings = PLAIN, first: bool = True) -> None:
        self.settings = settings
        self.clock = FakeClock(offset=100.0)
        self.membership = Membership(settings, 1, self.now, first=first)
        self.driver.proof(self.now, self.now)

    @property
    def membership(self) -> Membership:
        return self.driver.membership

    @membership.setter
    def membership(self, membership: Membership) -> None:
        self.driver = MembershipDriver(membership)

    @property
    def now(self) -> float:
        return self.clock.now()

    def wait(self, seconds: float, *, proven: bool = True) -> None:
        """Let time go by, in steps as the partition actor's driver would take them."""
        end = self.now + seconds
        while self.now < end:
            self.clock.advance(min(self.settings.hold / 4, end - self.now))
            if proven:
                self.driver.proof(self.now, self.now)
            else:
                self.driver.timer(self.now)

    def restart(self, *, restarted: bool = True) -> None:
        """Put a new partition actor, with nothing, in the place of this one."""
        incarnation = self.membership.incarnation + 1000
        self.membership = Membership(self.settings, incarnation, self.now, restarted=restarted)
        self.driver.proof(self.now, self.now)

    def replace(self, settings: Settings | None = None, *, proven: bool = True) -> MembershipDriver:
        """Put one that goes on with its state in the place of this partition actor, which is returned."""
        former, state = self.driver, self.call("hand_over")
        assert state is not None
        wanted = settings or former.membership.settings
        incarnation = former.membership.incarnation + 1000
        self.membership = Membership(wanted, incarnation, self.now, state=pickle.loads(pickle.dumps(state)))
        self.driver.take_over(self.now, state)
        if proven:
            self.driver.proof(self.now, self.now)
        return former

    def call(self, name: str, *arguments: Any) -> Any:
        """What a call of the driver returns at once; raises what it raises. None: it waits, in `results`."""
        self.driver.begin(self.now, name, getattr(self.driver, name)(*arguments))
        return self.take_results().get(name)

    def take_results(self) -> dict[Any, Any]:
        """Carry out what is to be done, as a driver's shell does; returns the results of calls."""
        results = dict(self.driver.actions(self.now).results)
        for result in results.values():
            if isinstance(result, PartitionError):
                raise result
        return results

    def member(self, member_id: str, group: str = "g", node: str | None = None, **join: Any) -> Member:
        join.setdefault("exclusive", True)
        return Member(self, member_id, group, join, node)

    def watcher(self, member_id: str, group: str = "g") -> Member:
        """A process that follows the group and is no member."""
        made = Member(self, member_id, group, {})
        made.member_state.watch(group)
        return made


class Member:
    """A process under an id, which lets lost keys go at once."""

    lives = 0

    def __init__(self, world: World, member_id: str, group: str, join: dict[str, Any], node: str | None = None) -> None:
        Member.lives += 1
        self.world, self.id, self.group = world, member_id, group
        self.where = None if node is None else Where(node)
        self.key = (member_id, f"session-{Member.lives}")
        self.member_state = MemberState(member_id, self.key[1], world.settings)
        self.member_state.join(group, **join)
        self.changes: list[Change] = []
        self.adopts = True

    def send(self) -> dict[str, Any]:
        """Make a request and let it arrive; returns it."""
        request = self.member_state.request(self.world.now)
        self.world.driver.request(self.world.now, check_request(request), self.where)
        return request

    def whole_request(self) -> dict[str, Any]:
        """One that says everything, as to a partition actor that it has just found."""
        self.member_state.take_settings(self.world.settings)
        return self.member_state.request(self.world.now)

    def fetch(self, request: dict[str, Any]) -> dict[str, Any]:
        """Let the reply to a request arrive; returns it."""
        reply = self.world.driver.reply(self.world.now, self.key, request["seq"])
        assert reply is not None
        for change in self.member_state.receive(reply) or ():
            self.changes.append(change)
            if change.after is not None and self.adopts:
                self.member_state.acknowledge(change.group, change.after.epoch)
        return reply

    def beat(self, times: int = 4) -> dict[str, Any]:
        """Exchange heartbeats until nothing changes any more; returns the last reply."""
        for _ in range(times):
            reply = self.fetch(self.send())
        return reply

    @property
    def works_on(self) -> list[str]:
        return self.member_state.subset(self.world.now, self.group, KEYS)

    @property
    def state(self) -> str:
        return self.member_state.groups[self.group].state


def beat(*members: Member) -> None:
    """Let all members hear of everything."""
    for _ in range(3):
        for member in members:
            member.beat(2)
