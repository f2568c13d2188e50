"""Asks Ray which nodes are about to end: drained by an operator, an autoscaler or a preemption.

Ray has no public call for that. Without an answer nothing changes: members stay where they are until they end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from partition_actor.actor.death_watch import alive_nodes
from partition_actor.ray_internals import draining_nodes_asker
from partition_actor.settings import Settings

log = logging.getLogger(__name__)

Nodes = dict[str, float | None]
"""By the hex id of a node, the Unix time in seconds at which it ends at the latest, if anybody has said."""

_THREAD = ThreadPoolExecutor(1, "draining-nodes")  # of its own: while the GCS is away, others do not wait for it


class DrainingNodes:
    """Keeps the partition actor informed.

    `tell` is called when something has changed: with the nodes that are draining, each with the seconds that it has
    left or None, and with those `known` to be draining before that are dead by now. `settings` returns those that apply
    now. Tests replace the rest, which asks Ray.
    """

    def __init__(
        self,
        tell: Callable[[dict[str, float | None], Set[str]], None],
        known: Callable[[], Set[str]],
        settings: Callable[[], Settings],
        ask: Callable[[float], Mapping[str, int]] | None = None,
        alive: Callable[[], Awaitable[set[str]]] = alive_nodes,
    ) -> None:
        self._tell, self._known, self._settings, self._alive = tell, known, settings, alive
        self._ask = ask or draining_nodes_asker()
        self._told: Nodes = {}
        self._failed = False
        if self._ask is None:
            log.info("this Ray does not tell which nodes are draining: members stay on them until they end")

    async def keep_asking(self) -> None:
        """Ask at every `node_proof_interval`."""
        while self._ask is not None:
            try:
                await self.look(self._ask)
                self._failed = False
            except Exception as error:
                log.log(
                    logging.DEBUG if self._failed else logging.INFO,
                    "cannot tell which nodes are draining now: %s",
                    str(error) or repr(error),
                )
                self._failed = True
            await asyncio.sleep(self._settings().node_proof_interval)

    async def look(self, ask: Callable[[float], Mapping[str, int]]) -> None:
        """Ask once, and tell what has changed. Raises what Ray raises, and ``asyncio.TimeoutError``."""
        settings, nodes = self._settings(), Nodes()
        if settings.leave_draining_nodes:
            loop = asyncio.get_running_loop()
            asked = loop.run_in_executor(_THREAD, partial(ask, settings.ttl))
            nodes = {node: end / 1000 if end else None for node, end in (await asked).items()}
        over, dead = self._known() - nodes.keys(), set[str]()
        if over and settings.leave_draining_nodes:
            dead = over - await self._alive()
        if over or nodes != self._told:
            now = time.time()
            self._tell({node: None if end is None else max(0.0, end - now) for node, end in nodes.items()}, dead)
            self._told = nodes
