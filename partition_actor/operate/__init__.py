"""For whoever runs a cluster: the command line ``partition-actor``.

``command_line`` is the program. ``look`` has the commands that only show something, ``change`` those that change the
cluster, ``fleets`` those about fleets, ``doctor`` and ``demo`` one each. ``connection`` joins the Ray that is there and
never starts one; ``observer`` asks the partition actor again and again, and finds it again after it was lost.
``screens`` makes what is shown from the partition actor's replies, with the words of ``text``; ``keys`` computes owners
from them.

Private: what users import is in ``partition_actor``, ``.errors``, ``.settings`` and ``.testing``. The command line is
public: ``docs/operate.md`` describes it.
"""
