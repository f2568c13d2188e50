"""The ``ray://`` backend of tooz: programs written for tooz run on Ray.

``url`` reads the URL and connects the process to Ray; ``driver`` is tooz's driver on a member's session, and ``lock``
its locks. tooz's calls come in, go to the session or to the partition actor, and come back as the results and errors
of ``results``.

Private: tooz finds it by the entry point ``ray``.
"""
