"""The process that is connected to Ray for the page: ``python -m partition_actor.operate.page.asker ADDRESS …``.

It is a process of its own because Ray may end a process whose cluster has gone, and the page must outlive that. It
reads a request from each line of its input, and writes an answer to each as a line of JSON::

    {"id": 7, "ask": "observe", "arguments": [["agents"], 0]}
    {"id": 7, "value": …}, or {"id": 7, "error": "sentence", "kind": "away" | "absent" | "refused"}

Before the first answer it writes ``{"id": 0, "value": null}`` once it is connected, or its error, and ends. It ends
with its input, so it does not outlive the page either.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from partition_actor.deployment import find
from partition_actor.errors import PartitionActorNotFound, PartitionActorUnavailable, PartitionError

ANSWER_WITHIN = {"observe": 3.0, "drain": 15.0, "forget": 15.0}
"""Seconds."""
FIND_WITHIN = 3.0
THREADS = 4


class Asker:
    """Carries out requests with the partition actor's handle."""

    def __init__(self, namespace: str, name: str) -> None:
        self._namespace, self._name = namespace, name
        self._handle: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        try:
            return {"id": request["id"], "value": plain(self._ask(request["ask"], *request["arguments"]))}
        except PartitionActorNotFound:
            kind = "absent"
            why = f"there is no partition actor {self._name!r} in namespace {self._namespace!r}: it was shut down"
        except PartitionActorUnavailable:
            kind, why = "away", f"Ray does not answer within {FIND_WITHIN:g} s"
        except GetTimeoutError:
            kind, why = "away", f"the partition actor does not answer within {ANSWER_WITHIN[request['ask']]:g} s"
        except RayActorError:
            kind, why = "away", "the partition actor does not run: Ray may be starting it again"
        except AttributeError:
            kind, why = "away", f"the partition actor is of a version that has no {request['ask']}(): deploy it anew"
        except PartitionError as error:  # Ray's error for it is one of this class, with a traceback in front
            kind, why = "refused", str(getattr(error, "cause", error))
        except Exception as error:
            kind, why = "away", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if kind == "away" and not _is_reachable(ray.get_runtime_context().gcs_address):
            why = f"the Ray at {ray.get_runtime_context().gcs_address} is gone"
        return {"id": request["id"], "error": why, "kind": kind}

    def _ask(self, method: str, *arguments: Any) -> Any:
        handle = self._handle or find(self._name, self._namespace, FIND_WITHIN)
        try:
            value = ray.get(getattr(handle, method).remote(*arguments), timeout=ANSWER_WITHIN[method])
        except RayActorError:
            self._handle = None  # the next one of this name is another actor
            raise
        self._handle = handle
        return value


def plain(value: Any) -> Any:
    """`value` as JSON has it: no number that is none, and members' metadata, which may be anything, as text."""
    if isinstance(value, dict):
        return {str(name): _text(each) if name == "metadata" else plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
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


def _is_reachable(address: str) -> bool:
    """Whether something listens at host:port; True for addresses of other forms, which Ray must judge."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return True
    try:
        socket.create_connection((host, int(port)), 2.0).close()
    except OSError:
        return False
    return True


def _connect(address: str) -> str | None:
    """Connect to Ray; returns why that is impossible, or None."""
    if not _is_reachable(address):
        return f"there is no Ray at {address}"
    try:
        ray.init(address, log_to_driver=False, configure_logging=False)
    except ConnectionError:
        return "there is no Ray on this machine, and no --address or RAY_ADDRESS of another"
    except Exception as error:
        return f"Ray cannot be reached at {address}: {type(error).__name__}: {str(error).splitlines()[0]}"
    return None


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

    why = _connect(address)
    if why is not None:
        write({"id": 0, "error": why, "kind": "away"})
        return
    write({"id": 0, "value": None})
    _serve(sys.stdin, write, Asker(namespace, name))


if __name__ == "__main__":
    main()
