"""The ``ray://`` backend of tooz: programs written for tooz run on Ray.

``url`` reads the URL and connects the process to Ray; ``driver`` is tooz's driver on a member's session, with its
locks. It passes tooz's calls to the session or the partition actor, and ``results`` makes what comes back tooz's own.

Private: tooz finds it by the entry point ``ray``.
"""
