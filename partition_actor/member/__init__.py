"""All that a worker holds: the Ray shell around ``core``'s member.

``coordinator`` is what users call. It asks a session, which exchanges heartbeats with the partition actor in the
``background`` thread and keeps the state machine; what a reply changes goes through ``notifier`` to users' callbacks.
``partition``, ``lock``, ``elections`` and ``guard`` are what users hold beside it.

Private: what users import is in ``partition_actor``, ``.errors``, ``.settings`` and ``.testing``.
"""
