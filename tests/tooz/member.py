"""A member that uses only tooz's public API: joins a group, takes a lock, leads, and sends heartbeats until killed.

python member.py ray://… name group lock
"""

from __future__ import annotations

import sys
import time

from tooz import coordination


def main(url: str, name: str, group: str, lock: str) -> None:
    coordinator = coordination.get_coordinator(url, name.encode())
    coordinator.start(start_heart=True)
    coordinator.join_group_create(group.encode(), {"name": name})
    coordinator.watch_elected_as_leader(group.encode(), lambda event: None)
    if not coordinator.get_lock(lock.encode()).acquire(blocking=False):
        raise SystemExit(f"{lock} is held")
    while True:
        coordinator.run_watchers()
        time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
