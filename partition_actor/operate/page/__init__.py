"""The page: a web server that shows an operator the groups, live, and lets him drain and forget members.

``program`` runs it. ``server`` answers browsers with ``static/`` and with what ``feed`` knows; ``access`` says who may
look and who may change something. ``feed`` asks once a second while anybody looks, and keeps events in ``history``;
``picture`` turns what it is told into what is shown. ``asking_process`` reaches the partition actor through a process
of its own, ``asker``, which alone is connected to Ray.

Private: what users call is the command line.
"""

from partition_actor.operate.page.program import run

__all__ = ["run"]
