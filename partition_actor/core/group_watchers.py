"""Who follows which group at the partition actor without being a member of it.

A watcher has a session and a lease, as members have, so that the partition actor notices when it is gone; it has no
seat, owns nothing, and nobody waits for it. It may watch a group that nobody has made.

Pure: no clock, no threads, no Ray.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from partition_actor.core.group import Group
from partition_actor.core.messages import SessionKey
from partition_actor.core.reports import ReportState


class Watchers:
    """The watchers of all groups."""

    def __init__(self) -> None:
        self._of_group: dict[str, set[SessionKey]] = {}
        self._of_session: dict[SessionKey, frozenset[str]] = {}

    def watch(self, key: SessionKey, groups: frozenset[str]) -> None:
        """Let a session watch these groups and no others."""
        before = self._of_session.get(key, frozenset())
        if groups == before:
            return
        for group in before - groups:
            self._of_group[group].discard(key)
            if not self._of_group[group]:
                del self._of_group[group]
        for group in groups - before:
            self._of_group.setdefault(group, set()).add(key)
        if groups:
            self._of_session[key] = groups
        else:
            del self._of_session[key]

    def of(self, group: str) -> Iterable[SessionKey]:
        """The sessions that watch a group."""
        return self._of_group.get(group, ())


def entry_for_watcher(group: Group | None, standing: ReportState, *, is_certain: bool) -> dict[str, Any] | None:
    """What the reply to a watcher has on a group, of which it is `is_certain` that there is none when it is None."""
    if group is None:
        return {"state": "unknown"} if is_certain and not standing.unknown else None
    view = group.view_for_watcher(standing)
    return None if view is None else {"view": view}
