"""The partition actor: the Ray shell around ``core``'s membership.

``partition_actor`` hands calls to ``core.driver`` and carries out its actions; ``timer_wheel`` holds heartbeats;
``death_watch`` reports processes that are certainly dead; ``draining_nodes`` asks Ray which nodes are about to end, and
``predecessor`` whether another one ran under this name; ``member_handles`` keeps the handles of members that are
actors; ``fleets`` what fleets tell of themselves; ``actor_metrics`` records metrics. No worker imports this room.

Private: what users import is in ``partition_actor``, ``.errors``, ``.settings`` and ``.testing``.
"""
