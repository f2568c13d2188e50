"""The ``ray://`` backend of tooz: programs written for tooz run on Ray.

``url`` reads the URL and connects to Ray; ``driver`` is tooz's driver on a member's session. tooz's calls come in, go
to the session or to the partition actor, and come back as tooz's results and errors.

Private: tooz finds it by the entry point ``ray``.
"""
