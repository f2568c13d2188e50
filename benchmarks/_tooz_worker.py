"""Workers that are members of a tooz group, forked from one process that has already imported tooz.

Twenty interpreters that import at the same moment would take CPU from the heartbeats that are being timed.
``python _tooz_worker.py URL POLL`` reads names from stdin, one per line, and forks a worker for each. Workers report on
the shared stdout in lines of JSON, each short enough for one atomic write to a pipe:

- ``{"who": "w3", "pid": 123, "size": 4}`` once it is a member, with the size of the group that it sees then,
- ``{"who": "w3", "at": 12.5, "size": 3, "left": "w1"}`` when another member joined or left: ``at`` (monotonic seconds)
  is when this worker's own ring had the change,
- ``{"who": "w3", "error": "..."}`` when polling the group failed; the worker continues.

At the end of stdin it kills itself and all its workers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from stevedore.driver import DriverManager
from tooz import coordination

GROUP = b"workers"


def report(**what: object) -> None:
    os.write(1, (json.dumps(what) + "\n").encode())


class Worker:
    """One member, with tooz's own heartbeat thread and tooz's own partitioner."""

    def __init__(self, url: str, name: str) -> None:
        self._name = name
        self._coordinator = coordination.get_coordinator(url, name.encode())
        self._coordinator.start(start_heart=True)
        self._partitioner = self._coordinator.join_partitioned_group(GROUP)
        # Hooks run in the order in which they were added: the ring has changed when these are called.
        self._coordinator.watch_join_group(GROUP, self._joined)
        self._coordinator.watch_leave_group(GROUP, self._left)
        report(who=name, pid=os.getpid(), size=self._size())

    def watch(self, poll: float) -> None:
        while True:
            try:
                self._coordinator.run_watchers()
            except Exception as error:  # whatever the client raises, a real worker would poll again
                report(who=self._name, error=repr(error)[:500])
            time.sleep(poll)

    def _size(self) -> int:
        return len(self._partitioner.ring.nodes)

    def _joined(self, event: Any) -> None:
        report(who=self._name, at=time.monotonic(), size=self._size(), joined=event.member_id.decode())

    def _left(self, event: Any) -> None:
        report(who=self._name, at=time.monotonic(), size=self._size(), left=event.member_id.decode())


def import_driver(url: str) -> None:
    """Load the driver's modules and the list of entry points before the first fork."""
    DriverManager(coordination.TOOZ_BACKENDS_NAMESPACE, url.partition(":")[0])


def main() -> None:
    url, poll = sys.argv[1], float(sys.argv[2])
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps dead workers
    import_driver(url)
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                Worker(url, line.strip()).watch(poll)
            except BaseException as error:
                report(who=line.strip(), error=repr(error)[:500])
            os._exit(1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
