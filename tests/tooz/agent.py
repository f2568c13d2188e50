"""A polling agent of ceilometer's shape that uses only tooz's public API: the backend is a URL.

It joins a partitioned group for each source. In each cycle it runs the watchers, asks which resources are its own and
writes them to the file as one JSON line: ``[time, {group: [resource, ...]}]``.

    python agent.py redis://127.0.0.1:6379 agent-1 out.jsonl
"""

from __future__ import annotations

import json
import sys
import time

from tooz import coordination

GROUPS = ("compute", "storage")
RESOURCES = [f"resource-{number}" for number in range(40)]
CYCLE = 0.2


def main(url: str, name: str, path: str) -> None:
    coordinator = coordination.get_coordinator(url, name.encode())
    coordinator.start(start_heart=True)
    partitioners = {group: coordinator.join_partitioned_group(group.encode()) for group in GROUPS}
    with open(path, "w", buffering=1) as out:
        while True:
            coordinator.run_watchers()
            mine = {
                group: [resource for resource in RESOURCES if partitioner.belongs_to_self(resource)]
                for group, partitioner in partitioners.items()
            }
            out.write(json.dumps([time.time(), mine]) + "\n")
            time.sleep(CYCLE)


if __name__ == "__main__":
    main(*sys.argv[1:])
