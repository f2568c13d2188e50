"""Who leads a group: whoever holds the lock of that name in the leaders' namespace. Candidates are those who wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from partition_actor.core.messages import leader_name
from partition_actor.member.callbacks import Callback
from partition_actor.member.lock import Hold, Line


@dataclass(frozen=True, slots=True)
class Elected:
    """What the callbacks of `elect` get: this process leads `group` from now on."""

    group: str
    fencing_token: int
    """It grows with every leader of this group."""


@dataclass(slots=True)
class Candidacy:
    """One group that this process would lead."""

    hold: Hold
    callbacks: list[Callback] = field(default_factory=list)
    announced: int = 0
    """The token of the leadership that the callbacks were last told of."""


class Elections:
    """The candidacies of one member. `post` has a callback run in the thread for callbacks."""

    def __init__(self, line: Line, post: Callable[[Callable[[], None]], None]) -> None:
        self._line = line
        self._post = post
        self._candidacies: dict[str, Candidacy] = {}

    def elect(self, group: str, on_elected: Callable[[Elected], Any] | None) -> None:
        """Be a candidate from now on. Raises ``NotStarted``."""
        with self._line.lock:
            candidacy = self._candidacies.get(group)
            if candidacy is None or candidacy.hold.state is None:
                callbacks = candidacy.callbacks if candidacy else []
                candidacy = self._candidacies[group] = Candidacy(Hold(self._line, leader_name(group)), callbacks)
            if on_elected is not None:
                candidacy.callbacks.append(Callback(on_elected))
                candidacy.announced = 0
        self.look()

    def is_leader(self, group: str) -> bool:
        """Whether this process leads the group now. Never waits."""
        return self.token(group) > 0

    def token(self, group: str) -> int:
        """The fencing token of the leadership; 0 without it."""
        with self._line.lock:
            candidacy = self._candidacies.get(group)
            return 0 if candidacy is None else candidacy.hold.token

    def step_down(self, group: str, *, withdraw: bool) -> tuple[bool, Callable[[], bool]]:
        """Let the next candidate lead. Whether this process did, and the question whether the partition actor knows."""
        with self._line.lock:
            candidacy = self._candidacies.get(group)
            if candidacy is None:
                return False, lambda: True
            led = candidacy.hold.held
            if withdraw:
                del self._candidacies[group]
                return led, candidacy.hold.drop()
            if led:
                candidacy.hold.renew()
            return led, candidacy.hold.tell()

    def look(self) -> None:
        """Announce what a reply has brought, and be a candidate again where the lead was lost."""
        with self._line.lock:
            for group, candidacy in self._candidacies.items():
                if candidacy.hold.state in ("lost", "refused"):
                    candidacy.hold.renew()
                token = candidacy.hold.token
                if token and token != candidacy.announced:
                    candidacy.announced = token
                    for callback in candidacy.callbacks:
                        self._post(partial(callback, Elected(group, token)))

    def end(self) -> None:
        """The session is over, and with it every candidacy."""
        with self._line.lock:
            self._candidacies.clear()
