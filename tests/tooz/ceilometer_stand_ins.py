"""What ceilometer_coordination.py imports of oslo.config and of ceilometer, as little as it needs."""

from __future__ import annotations

import logging as log
from types import SimpleNamespace

from tooz import hashring

__all__ = ["_LE", "_LI", "cfg", "log", "utils"]


def _LE(text):  # noqa: N802
    return text


_LI = _LE


class Config(SimpleNamespace):
    def register_opts(self, options, group):
        setattr(self, group, SimpleNamespace(**dict(options)))


def option(name, default, help):
    return name, default


class HashRing:
    def __init__(self, nodes):
        self._ring = hashring.HashRing(nodes)

    def get_node(self, key):
        (node,) = self._ring.get_nodes(key.encode())
        return node


cfg = SimpleNamespace(CONF=Config(), StrOpt=option, FloatOpt=option)
utils = SimpleNamespace(HashRing=HashRing)
