"""The two state machines and what they say to each other.

``member`` is a worker's half and ``membership`` the partition actor's; ``messages`` is what goes between them. Each
has a driver (``member_driver``, ``driver``) that takes events and `now`, and returns what is to be done: send this,
run these callbacks, answer these, wake me then. ``member/``, ``actor/`` and ``testing/`` carry that out. Pure: no
Ray, no asyncio, no threads, no clocks.

Private: what users import is in ``partition_actor``, ``.errors``, ``.settings`` and ``.testing``.
"""
