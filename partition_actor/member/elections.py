"""Who leads a group: whoever holds the lock named after it. Candidates are those who wait for that lock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from partition_actor import arguments
from partition_actor.core.messages import leader_name
from partition_actor.member.callbacks import Callback
from partition_actor.member.lock import Hold
from partition_actor.member.session import Session


@dataclass(frozen=True, slots=True)
class Elected:
    """What the callbacks of `elect` get: this process leads `group` from now on."""

    group: str
    fencing_token: int
    """It grows with every leader of this group."""


@dataclass(slots=True)
class Candidacy:
    """One group that this process wants to lead."""

    hold: Hold
    callbacks: list[Callback] = field(default_factory=list)
    announced: int = 0
    """The token of the leadership that the callbacks were told of last."""


class Elections:
    """The candidacies of one member. `post` runs a job in the thread for callbacks.

    In the single-instance mode this process leads every group.
    """

    def __init__(self, session: Session, post: Callable[[Callable[[], None]], None]) -> None:
        self._session = session
        self._post = post
        self._candidacies: dict[str, Candidacy] = {}

    def elect(self, group: str, on_elected: Callable[[Elected], Any] | None) -> None:
        """Be a candidate from now on. Raises ``NotStarted``."""
        if self._session.is_local:
            if on_elected is not None:
                self._post(partial(Callback(on_elected), Elected(group, 0)))
            return
        with self._session.lock:
            candidacy = self._candidacies.get(group)
            if candidacy is None or candidacy.hold.state is None:
                callbacks = candidacy.callbacks if candidacy else []
                candidacy = self._candidacies[group] = Candidacy(Hold(self._session, leader_name(group)), callbacks)
            if on_elected is not None:
                candidacy.callbacks.append(Callback(on_elected))
                candidacy.announced = 0
        self.update()

    def is_leader(self, group: str) -> bool:
        """Whether this process leads the group now. Never waits."""
        with self._session.lock:
            candidacy = self._candidacies.get(group)
            return self._session.is_local or (candidacy is not None and candidacy.hold.held)

    def stand_down(self, group: str, withdraw: bool) -> tuple[bool, Callable[[], bool]]:
        """Let the next candidate lead. Raises ``InvalidArgument``.

        Returns whether this process led, and a function that says whether the partition actor knows.
        """
        arguments.check_text("group_id", group)
        arguments.check_flag("withdraw", withdraw)
        with self._session.lock:
            candidacy = self._candidacies.get(group)
            if candidacy is None:
                return False, lambda: True
            led = candidacy.hold.held
            if withdraw:
                del self._candidacies[group]
                return led, candidacy.hold.drop()
            if led:
                candidacy.hold.renew()
            return led, candidacy.hold.send()

    def update(self) -> None:
        """Announce the leads that a reply has brought, and be a candidate anew where the lead was lost."""
        with self._session.lock:
            for group, candidacy in self._candidacies.items():
                if candidacy.hold.state in ("lost", "refused"):
                    candidacy.hold.renew()
                token = candidacy.hold.token
                if token and token != candidacy.announced:
                    candidacy.announced = token
                    for callback in candidacy.callbacks:
                        self._post(partial(callback, Elected(group, token)))

    def end(self) -> None:
        """End every candidacy: the session is over."""
        with self._session.lock:
            self._candidacies.clear()
