"""Locks and leaders, as ``PartitionCoordinator`` offers them: a part of ``coordinator``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from partition_actor import arguments
from partition_actor.member.callbacks import Callback
from partition_actor.member.connection import Connection
from partition_actor.member.elections import Elected, Elections
from partition_actor.member.local_session import LocalSession
from partition_actor.member.lock import Lock
from partition_actor.member.notifier import Notifier


class CoordinatorLocks:
    """The methods of ``PartitionCoordinator`` about locks and leaders."""

    _actor: Any
    _connection: Connection
    _notifier: Notifier
    _elections: Elections

    def lock(self, name: str) -> Lock:
        """The lock of this name, which at most one process in the cluster holds, or several that share it.

        In the single-instance mode it is one of this process, between threads and tasks. Raises ``InvalidArgument``.
        """
        arguments.check_text("name", name)
        return Lock(LocalSession.of_this_process() if self._actor is None else self._connection, name)

    def elect(self, group_id: str, on_elected: Callable[[Elected], Any] | None = None) -> None:
        """Be a candidate for the lead of a group, for this session; candidates lead in the order in which they came.

        `on_elected` is called whenever this process begins to lead, as those of `watch_group` are. Who loses the lead
        because its lease has ended is a candidate again. One need not be a member of the group. In the single-instance
        mode this process leads every group. Never waits. Raises ``InvalidArgument`` and ``NotStarted``.
        """
        arguments.check_text("group_id", group_id)
        if on_elected is not None:
            arguments.check_callback(on_elected)
        if self._actor is not None:
            self._elections.elect(group_id, on_elected)
        elif on_elected is not None:
            self._notifier.post(partial(Callback(on_elected), Elected(group_id, 0)))

    def is_leader(self, group_id: str) -> bool:
        """Whether this process leads a group now: ask before each piece of a leader's work. Never waits.

        At most one process in the cluster does at a time. Raises ``InvalidArgument``.
        """
        arguments.check_text("group_id", group_id)
        return self._actor is None or self._elections.is_leader(group_id)

    def stand_down(self, group_id: str, withdraw: bool = False) -> bool:
        """Let the next candidate lead; whether this process did. It waits behind all others, or no more (`withdraw`).

        Raises ``InvalidArgument``.
        """
        led, known = self._step_down(group_id, withdraw)
        self._connection.wait(known)
        return led

    async def astand_down(self, group_id: str, withdraw: bool = False) -> bool:
        """`stand_down`, for asyncio."""
        led, known = self._step_down(group_id, withdraw)
        await self._connection.until(known, self._connection.patience)
        return led

    def _step_down(self, group: str, withdraw: bool) -> tuple[bool, Callable[[], bool]]:
        arguments.check_text("group_id", group)
        return self._elections.step_down(group, withdraw=arguments.check_flag("withdraw", withdraw))
