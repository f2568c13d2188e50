"""Calls to the owner of a key.

``routing_table`` follows a group: views and actor handles arrive from the partition actor, and each change makes a new
table. ``router`` sends a call to the actor that owns its key; ``retry`` holds the state of a call that has to wait or
has failed; ``map`` sends many items in few calls. At the worker, ``member.guard`` decides whether the call may run.

Private: what users import is in ``partition_actor``, ``.errors``, ``.settings`` and ``.testing``.
"""
