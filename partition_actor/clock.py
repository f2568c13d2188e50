"""The clock that leases run by: seconds that go on while the machine is suspended, where the system has such a clock.

A laptop's or a virtual machine's sleep must not stretch a lease (rule 1 of ``docs/guarantees.md``).
"""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds since some moment in the past; comparable within one machine only."""
    return time.clock_gettime(_CLOCK)
