"""Calls to the owner of a key.

``routing_table`` follows a group and knows each member's actor; ``router`` sends a call there; ``retry`` decides what
follows from a failure; ``map`` sends many items in few calls. A view comes in from the partition actor, a call goes out
to a worker, and ``member.guard`` has the last word there.

Private: what users import is in ``partition_actor``, ``.errors``, ``.settings`` and ``.testing``.
"""
