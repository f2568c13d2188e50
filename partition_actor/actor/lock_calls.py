"""The partition actor's calls about locks and leaders: a part of ``actor``."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from partition_actor import arguments, clock
from partition_actor.core.membership import Membership
from partition_actor.core.messages import leader_name
from partition_actor.settings import Settings


class LockCalls(ABC):
    """What ``PartitionActor`` answers about locks."""

    _settings: Settings

    @abstractmethod
    def _start(self) -> Membership:
        """The state machine."""

    @abstractmethod
    def _settle(self) -> None:
        """Answer those who waited for what has just been done."""

    async def break_lock(self, name: str) -> int:
        """Take a lock, by its name in the protocol, from those who hold it; how many did.

        Returns when they know, or have lost their lease. Raises ``InvalidArgument``.
        """
        arguments.check_text("name", name)
        await self._until_known(name)
        locks = self._start().locks
        broken = locks.holders(name)
        self._start().break_lock(clock.now(), name)
        self._settle()
        while any(claim is holder for claim in broken for holder in locks.holders(name)):
            await asyncio.sleep(self._pause)
        return len(broken)

    async def get_leader(self, group: str) -> tuple[str, str] | None:
        """``(member_id, session)`` of who leads a group, or None. Raises ``InvalidArgument``."""
        name = leader_name(arguments.check_text("group", group))
        await self._until_known(name)
        leaders = [claim.key for claim in self._start().locks.holders(name) if claim.broken_at is None]
        return leaders[0] if leaders else None

    async def _until_known(self, name: str) -> None:
        """Wait while a partition actor that has just restarted may have yet to hear who holds a lock."""
        membership = self._start()
        while membership.locks_unknown and not membership.locks.holders(name):
            await asyncio.sleep(self._pause)

    @property
    def _pause(self) -> float:
        return max(0.01, self._settings.publish_window)
