"""The clock that measures leases. Where the system has such a clock, it keeps counting while the machine is suspended.

A suspended laptop or virtual machine must not stretch a lease (rule 1 of ``docs/guarantees.md``).
"""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds since an unspecified moment. Compare values of one machine only."""
    return time.clock_gettime(_CLOCK)
