"""Works out each member's share of the hash ring in a thread: to make the ring of 1,000 members takes about 90 ms."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from partition_actor.core.epochs import Epoch
from partition_actor.core.group import Group
from partition_actor.core.messages import Members
from partition_actor.core.views import ring_for
from partition_actor.settings import Settings

KEPT = 64
"""Groups whose shares are kept."""
_THREAD = ThreadPoolExecutor(1, "ring-shares")


class RingShares:
    """The shares of the groups that were asked for last."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: OrderedDict[str, tuple[Epoch | None, asyncio.Future[dict[str, float]]]] = OrderedDict()

    def of(self, group: Group) -> asyncio.Future[dict[str, float]]:
        """Each member's part of the hash space, by the epoch that is published at the moment of the call."""
        epoch, shares = self._kept.pop(group.name, (None, None))
        if shares is None or epoch != group.epoch:
            epoch = group.epoch
            shares = asyncio.get_running_loop().run_in_executor(_THREAD, _work_out, group.members, self._settings)
        self._kept[group.name] = (epoch, shares)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return asyncio.shield(shares)


def _work_out(members: Members, settings: Settings) -> dict[str, float]:
    return ring_for(members, settings).share()
