"""What a simulated member has in place of Ray: heartbeats through the simulated network, and waits that never block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from partition_actor.core.member import MemberState
from partition_actor.core.messages import Reply
from partition_actor.member.session import Session, Transport
from partition_actor.member.wakeups import Wakeups
from partition_actor.testing.partition_actors import TIMER_DELAY, Client


class _NoWait(Wakeups):
    """Every wait is over at once, as if its time were: the simulated process goes on with its next event."""

    def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        return done()


@dataclass(slots=True, eq=False)
class SimulatedExchange:
    """The heartbeats of one session."""

    session: Session
    member_state: MemberState
    connected: bool = False
    """Whether the last request was answered in time."""
    waits: bool = False
    """Whether a request has had no reply yet."""
    settings_version: int = 0
    """How often the partition actor's settings had changed, when it last told them."""
    generation: int = 0
    """Of the next request: one that was put off is not sent."""


class SimulatedTransport(Transport):
    """The transport of one simulated member."""

    def __init__(self, member: Client) -> None:
        super().__init__(_NoWait())
        self._member, self._world = member, member.world
        self._exchanges: dict[str, SimulatedExchange] = {}
        self._wake_at = float("inf")
        self._timer: Callable[[], None] = lambda: None
        self.sessions: list[MemberState] = []
        """All sessions that the member ever had."""

    def now(self) -> float:
        """The process's own clock."""
        return self._member.clock.now()

    def process(self) -> str:
        """The name of the process."""
        return self._member.name

    def new_name(self) -> str:
        """The name of the process."""
        return self._member.name

    def open(self, session: Session, member_state: MemberState) -> None:
        """Send the first request soon."""
        self.sessions.append(member_state)
        exchange = self._exchanges[member_state.session] = SimulatedExchange(session, member_state)
        self._send_in(exchange, 0.0)

    def is_connected(self, member_state: MemberState) -> bool:
        """Whether the last request of the session was answered in time."""
        exchange = self._exchanges.get(member_state.session)
        return exchange is not None and exchange.connected

    def send(self, member_state: MemberState, seconds: float) -> None:
        """Send the next request of a session."""
        if (exchange := self._exchanges.get(member_state.session)) is not None:
            self._send_in(exchange, seconds)

    def end(self, member_state: MemberState) -> None:
        """Send no more requests of a session, from some moment on: its task goes on until it hears of this."""
        delay = self._world.rng.expovariate(1 / self._world.conditions.delay)
        self._world.later(delay, self._member, self._forget, member_state.session)

    def _forget(self, session: str) -> None:
        del self._exchanges[session]

    def close(self, member_state: MemberState) -> None:
        """Tell the partition actor."""
        route = self._member.route
        self._world.send(self._member, route, route.on_close, member_state.member_id, member_state.session)

    def wake_at(self, session: Session, moment: float) -> None:
        """Call the session's timer at this moment."""
        if moment != self._wake_at:
            self._wake_at = moment
            if moment < float("inf"):
                delay = max(0.0, moment - self.now()) + TIMER_DELAY
                self._timer = session.timer
                self._world.later(delay, self._member, self._on_timer, moment)

    def _on_timer(self, moment: float) -> bool:
        if moment != self._wake_at:
            return False
        self._wake_at = float("inf")
        self._timer()
        return True

    def on_reply(self, session: str, reply: Reply) -> None:
        """Take a reply in, and send the next request at once or when it is due."""
        exchange = self._exchanges.get(session)
        if exchange is None:
            return
        self._member.end_work_after_lapse()
        exchange.connected, exchange.waits, generation = True, False, exchange.generation
        changes = exchange.session.receive(exchange.member_state, reply)
        if changes is None or session not in self._exchanges:
            return
        if reply.get("settings", 0) != exchange.settings_version:
            actor = self._member.route  # it answers without delay
            exchange.settings_version = actor.membership.settings_version
            exchange.session.change_settings(exchange.member_state, actor.membership.settings)
        if reply["resync"] or reply.get("more") or self._world.conditions.holds:
            self._send_in(exchange, 0.0)
        elif exchange.generation == generation:
            self._send_in(exchange, exchange.member_state.interval * self._world.rng.uniform(0.9, 1.0))

    def _send_in(self, exchange: SimulatedExchange, seconds: float) -> None:
        exchange.generation += 1
        self._world.later(seconds + 0.001, self._member, self._send, exchange.member_state.session, exchange.generation)

    def _send(self, session: str, generation: int) -> bool:
        exchange, member, world = self._exchanges.get(session), self._member, self._world
        if exchange is None or generation != exchange.generation:
            return False
        member_state = exchange.member_state
        exchange.connected, exchange.waits = exchange.connected and not exchange.waits, True
        route = member.choose_route()
        request = exchange.session.request(member_state)
        if request is None:
            return True
        world.send(member, route, route.on_request, member, request)
        settings = member_state.settings
        self._send_in(exchange, member_state.interval * settings.ttl / settings.hold / 2)
        return True
