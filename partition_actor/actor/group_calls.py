"""The partition actor's calls about groups that are made and deleted by hand: a part of ``actor``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from partition_actor import arguments, clock
from partition_actor.core.group import Group
from partition_actor.core.membership import Membership


class GroupCalls(ABC):
    """What ``PartitionActor`` answers to those who make groups before anybody joins them, as tooz does."""

    @abstractmethod
    def _start(self) -> Membership:
        """The state machine."""

    @abstractmethod
    async def _find(self, group: str) -> Group:
        """The group, settled. ``GroupNotFound``."""

    async def make_group(self, group: str) -> bool:
        """Make a group that is there without members until it is deleted; False when there is one already.

        A crash of the partition actor forgets it if it has no members. Raises ``InvalidArgument``.
        """
        return self._start().make_group(clock.now(), arguments.check_text("group", group))

    async def delete_group(self, group: str) -> bool:
        """Forget a group; False when it has members. Raises ``InvalidArgument`` and ``GroupNotFound``."""
        await self._find(arguments.check_text("group", group))
        return self._start().delete_group(clock.now(), group)

    async def get_metadata(self, group: str) -> dict[str, Any]:
        """``{member_id: metadata}`` of a group's members. Raises ``InvalidArgument`` and ``GroupNotFound``."""
        found = await self._find(arguments.check_text("group", group))
        return {
            member: found.seats[member, session].metadata
            for member, session in sorted(found.occupants.items())
            if (member, session) in found.seats
        }
