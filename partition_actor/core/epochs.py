"""Epochs, incarnations and fencing tokens: what orders one published membership after another. Rule 9."""

from __future__ import annotations

Epoch = tuple[int, int]
"""``(incarnation, counter)``; compares in the order of publication."""

COUNTER_BITS = 22
"""An incarnation is in milliseconds since 2020 (41 bits last until 2089), so a token fits a signed 64-bit column."""

INCARNATION_ZERO = 1_577_836_800.0
"""2020-01-01T00:00Z as a Unix time, in seconds."""


def incarnation_at(unix_time: float) -> int:
    """The incarnation of a partition actor that starts at `unix_time` seconds; at least 1."""
    return max(1, int((unix_time - INCARNATION_ZERO) * 1000))


def fencing_token(epoch: Epoch) -> int:
    """One int that grows with every epoch, incarnation first."""
    return (epoch[0] << COUNTER_BITS) | epoch[1]
