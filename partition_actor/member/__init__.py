"""All that a worker holds: the Ray shell around ``core``'s member.

``coordinator`` is what users call. It asks a ``session``, which exchanges heartbeats with the partition actor on the
``background`` loop and holds the state machine (``local_session`` in the single-instance mode). What a reply changes
goes to users' ``callbacks``, and wakes those who wait in ``wakeups``. ``partition`` and ``datasets``, ``lock``,
``elections`` and ``guard`` are what else users hold: each asks the same session.

Private: what users import is in ``partition_actor``, ``.errors``, ``.settings`` and ``.testing``.
"""
