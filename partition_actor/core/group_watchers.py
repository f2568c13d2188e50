"""Who follows which group without being a member of it.

A group watcher has a session and a lease, as members have, so that the partition actor notices its end. It owns
nothing, and nobody waits for it. It may watch a group that does not exist.
"""

from __future__ import annotations

from collections.abc import Collection

from partition_actor.core.messages import SessionKey


class GroupWatchers:
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

    def of(self, group: str) -> Collection[SessionKey]:
        """The sessions that watch a group."""
        return self._of_group.get(group, ())
