"""The process that is connected to Ray for the page: ``python -m partition_actor.operate.page.asker ADDRESS …``.

It is a process of its own because Ray may end a process whose cluster has gone, and the page must outlive that. It
reads a request from each line of its input, and writes an answer to each as a line of JSON::

    {"id": 7, "ask": "observe", "arguments": [["agents"], 0]}
    {"id": 7, "value": …}, or {"id": 7, "error": "sentence", "kind": "away" | "absent" | "refused"}

"absent": the Ray answers, but has no such partition actor. Before the first answer it writes
``{"id": 0, "value": null}`` once it is connected; or its error, and ends. It ends with its input, so it does not
outlive the page either.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO

import ray
from ray.exceptions import RayActorError

from partition_actor.deployment import find
from partition_actor.errors import PartitionActorNotFound, PartitionActorUnavailable, PartitionError
from partition_actor.operate.connection import ask, join_ray
from partition_actor.operate.options import Failure
from partition_actor.ray_access import gcs_problem

ANSWER_WITHIN = {"observe": 3.0, "drain": 15.0, "forget": 15.0}
"""Seconds."""
FIND_WITHIN = 3.0
THREADS = 4


class Asker:
    """Carries out requests with the partition actor's handle."""

    def __init__(self, namespace: str, name: str) -> None:
        self._namespace, self._name = namespace, name
        self._gcs = ray.get_runtime_context().gcs_address
        self._handle: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        try:
            return {"id": request["id"], "value": plain(self._ask(request["ask"], *request["arguments"]))}
        except PartitionActorNotFound:
            kind, why = "absent", f"there is no partition actor {self._name!r} in namespace {self._namespace!r}"
        except PartitionActorUnavailable as error:
            kind, why = "away", str(error)
        except RayActorError:
            kind, why = "away", "the partition actor does not run: Ray may be starting it again"
        except PartitionError as error:
            kind, why = "refused", str(error)
        except Exception as error:
            kind, why = "away", f"{type(error).__name__}: {error}".splitlines()[0]
        if kind == "away" and gcs_problem(self._gcs):
            why = f"the Ray at {self._gcs} is gone"
        return {"id": request["id"], "error": why, "kind": kind}

    def _ask(self, method: str, *arguments: Any) -> Any:
        handle = self._handle or find(self._name, self._namespace, FIND_WITHIN)
        try:
            value = ask(handle, method, *arguments, timeout=ANSWER_WITHIN[method])
        except RayActorError:
            self._handle = None  # the next one of this name is another actor
            raise
        self._handle = handle
        return value


def plain(value: Any, *, of_member: bool = False) -> Any:
    """`value` as JSON has it: no number that is none, and members' metadata, which may be anything, as text."""
    if isinstance(value, dict):  # a group may have any name, that of a field too
        return {
            str(name): _text(each) if of_member and name == "metadata" else plain(each, of_member=name == "members")
            for name, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain(each, of_member=of_member) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(metadata: Any) -> str | None:
    if metadata is None:
        return None
    if isinstance(metadata, bytes):
        return f"{len(metadata)} bytes of a pickle"
    try:
        return repr(metadata)[:1000]
    except Exception as error:
        return f"its repr() fails: {type(error).__name__}"


def _serve(requests: TextIO, write: Callable[[dict[str, Any]], None], asker: Asker) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        for line in requests:
            threads.submit(lambda request: write(asker.answer(request)), json.loads(line))
        os._exit(0)  # calls that wait for Ray would hold the end up


def main() -> None:
    """Run until the input ends."""
    address, namespace, name = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # whatever Ray prints is no answer
    lock = threading.Lock()

    def write(answer: dict[str, Any]) -> None:
        with lock:
            print(json.dumps(answer), file=answers, flush=True)

    try:
        join_ray(address)
    except Failure as failure:
        write({"id": 0, "error": failure.message, "kind": "away"})
        return
    write({"id": 0, "value": None})
    _serve(sys.stdin, write, Asker(namespace, name))


if __name__ == "__main__":
    main()
