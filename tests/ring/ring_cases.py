"""Shared by the ring's tests: members with unusual ids, keys of any kind, and uhashring as the reference."""

import xxhash
from hypothesis import strategies as st
from uhashring import HashRing

# The hash_fn arguments of uhashring that Ring's docstring gives.
HASH_FNS = {"xxh3": lambda text: xxhash.xxh3_64_intdigest(text.encode()), "md5": None}

# No surrogates: uhashring raises for them.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
odd_ids = st.one_of(
    st.sampled_from(["a", "aa", "a-", "a-0", "a-0-1", "-", "0", "1", "10", "-1", "é", "e\u0301", "日本", "\0", " "]),
    texts.filter(bool),
)
members_of_rings = st.dictionaries(odd_ids, st.integers(1, 3), max_size=6)
hash_names = st.sampled_from(["xxh3", "md5"])
keys_of_any_kind = st.lists(
    st.one_of(texts, st.integers(), st.none(), st.floats(), st.binary(max_size=4), st.tuples(st.integers())),
    max_size=30,
)


def reference(members, vnodes=160, hash_function="xxh3"):
    nodes = {member: {"weight": weight} for member, weight in sorted(members.items())}
    return HashRing(nodes=nodes, vnodes=vnodes, hash_fn=HASH_FNS[hash_function])


def probes(members, vnodes):
    """Keys that hash exactly to the virtual nodes, where an off-by-one in the search shows."""
    return [f"{member}-{i}" for member, weight in members.items() for i in range(vnodes * weight)]
