"""What a member under test has in place of Ray. Nothing in it waits."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from machines import World

from partition_actor.core.member import MemberState
from partition_actor.member.session import Session, Transport
from partition_actor.member.wakeups import Wakeups


class FakeTransport(Transport):
    """Carries each request to the world's partition actor at once, and its reply back.

    Without a world, or while it is not `prompt`, requests wait for `beat`.
    """

    def __init__(self, world: World | None = None, wakeups: Wakeups | None = None) -> None:
        super().__init__(wakeups)
        self.world = world or World()
        self.prompt = world is not None
        self.connected = True
        self.pid: Hashable = "parent"
        self.sent: list[tuple[MemberState, float]] = []
        self.opened: list[MemberState] = []
        self.ended: list[MemberState] = []
        self.closed: list[MemberState] = []
        self.woken_at = float("inf")
        self.sessions: dict[MemberState, Session] = {}
        self.asked: list[tuple[Any, ...]] = []

    def now(self) -> float:
        return self.world.now

    def process(self) -> Hashable:
        return self.pid

    def new_name(self) -> str:
        return "life"

    def open(self, session: Session, member_state: MemberState) -> None:
        self.opened.append(member_state)
        self.sessions[member_state] = session
        if self.prompt:
            self.beat(1)

    def is_connected(self, member_state: MemberState) -> bool:
        return self.connected

    def send(self, member_state: MemberState, seconds: float) -> None:
        self.sent.append((member_state, seconds))
        if self.prompt:
            self._exchange(member_state)

    def end(self, member_state: MemberState) -> None:
        self.ended.append(member_state)
        self.sessions.pop(member_state)

    def close(self, member_state: MemberState) -> None:
        self.closed.append(member_state)
        if self.connected:
            self.world.driver.close(self.world.now, (member_state.member_id, member_state.session))

    def wake_at(self, session: Session, moment: float) -> None:
        self.woken_at = moment

    async def ask(self, method: str, *arguments: Any) -> Any:
        return method, arguments

    def ask_now(self, method: str, seconds: float, *arguments: Any) -> Any:
        return method, seconds, arguments

    def beat(self, times: int = 4) -> None:
        """Exchange heartbeats of every session that is not over."""
        for _ in range(times):
            for member_state in list(self.sessions):
                self._exchange(member_state)

    def _exchange(self, member_state: MemberState) -> None:
        """One request and its reply; as the next request goes out at once, so do those that follow news."""
        session, world = self.sessions.get(member_state), self.world
        request = session and self.connected and session.request(member_state)
        if session and request:
            world.driver.request(world.now, request)
            reply = world.driver.reply(world.now, (member_state.member_id, member_state.session), request["seq"])
            assert reply is not None
            if session.receive(member_state, reply) and self.prompt:
                self._exchange(member_state)
