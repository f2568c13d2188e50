"""Who owns a key: a consistent hash ring, and an index of keys for repeated look-ups.

``hash_space`` hashes keys and represents sets of arcs; ``ring`` divides the hash space among members; ``key_index``
keeps keys sorted by hash, so that a member's share is a few slices; ``byte_cache`` bounds what is kept of all that.
Members and weights go in; owners and subsets come out. Pure: no Ray, no clock, no threads.

Private: what users import is in ``partition_actor``, ``.errors``, ``.settings`` and ``.testing``.
"""

from partition_actor.ring.hash_space import Arcs
from partition_actor.ring.key_index import KeyIndex
from partition_actor.ring.ring import Ring, arcs_of, handovers, owners_at_even_places, place_of, ring_of

__all__ = ["Arcs", "KeyIndex", "Ring", "arcs_of", "handovers", "owners_at_even_places", "place_of", "ring_of"]
