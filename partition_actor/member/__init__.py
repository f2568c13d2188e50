"""All that a worker holds: the Ray shell around ``core``'s member.

``coordinator`` is what users call. It asks a ``session``, which hands events to ``core.member_driver`` under one lock
and carries out the actions. ``ray_transport`` exchanges its heartbeats on the ``background`` loop (``local_session``
has none). ``callbacks`` runs what users want to be told; those who wait are in ``wakeups``. ``partition`` and
``datasets``, ``lock`` and ``guard`` are what else users hold: each asks the same session.

Private: what users import is in ``partition_actor``, ``.errors``, ``.settings`` and ``.testing``.
"""
