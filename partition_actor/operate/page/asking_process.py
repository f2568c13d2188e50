"""The partition actor as the page reaches it: through a process that is connected to Ray, started anew if it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from typing import Any

from partition_actor.operate.page.source import Absent, Away, Refused

CONNECT_WITHIN = 30.0
"""Seconds for the process to start, to import Ray and to connect. Where there is no Ray it says so much sooner."""
PATIENCE = {"observe": 8.0, "drain": 20.0, "forget": 20.0}
"""Seconds for an answer: more than the process itself waits for Ray."""
START_AFTER = 3.0
"""Seconds between two starts of the process."""
STALE_AFTER = 15.0
"""Seconds without a good answer after which the process is replaced: another Ray may run at its address."""
MAX_LINE = 1 << 28
_ERRORS: dict[str, type[Exception]] = {"away": Away, "absent": Absent, "refused": Refused}


class AskingProcess:
    """A ``Source`` that asks ``operate.page.asker``."""

    def __init__(self, address: str | None, namespace: str, name: str) -> None:
        self._arguments = [address or "auto", namespace, name]
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._started_at = self._good_at = float("-inf")
        self._why = "Ray is gone"
        self._lock = asyncio.Lock()

    async def observe(self, groups: Sequence[str], since: int) -> dict[str, Any]:
        """As ``handle.observe``."""
        answer: dict[str, Any] = await self._ask("observe", list(groups), since)
        return answer

    async def drain(self, group: str, member_id: str) -> None:
        """As ``handle.drain``."""
        await self._ask("drain", group, member_id)

    async def forget(self, group: str, member_id: str) -> None:
        """As ``handle.forget``."""
        await self._ask("forget", group, member_id)

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._reading is not None:
            await self._reading

    async def _ask(self, method: str, *arguments: Any) -> Any:
        process = await self._connected()
        self._number += 1
        number, answer = self._number, self._expect(self._number)
        assert process.stdin is not None
        request = json.dumps({"id": number, "ask": method, "arguments": arguments})
        try:
            with contextlib.suppress(ConnectionError):  # it has ended, which `_read` notices
                process.stdin.write(f"{request}\n".encode())
                await process.stdin.drain()
            value = await asyncio.wait_for(answer, PATIENCE[method])
        except asyncio.TimeoutError:
            raise Away("Ray does not answer") from None
        finally:
            self._waiting.pop(number, None)
        self._good_at = time.monotonic()
        return value

    def _expect(self, number: int) -> asyncio.Future[Any]:
        self._waiting[number] = asyncio.get_running_loop().create_future()
        return self._waiting[number]

    async def _connected(self) -> Process:
        """A process that is connected to Ray."""
        async with self._lock:
            now = time.monotonic()
            if self._process is not None and now - max(self._good_at, self._started_at) > STALE_AFTER:
                await self.close()
            if self._process is not None and self._process.returncode is None:
                return self._process
            if now - self._started_at < START_AFTER:
                raise Away(self._why)
            self._started_at = now
            connected = self._expect(0)
            self._process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", "partition_actor.operate.page.asker", *self._arguments],
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                limit=MAX_LINE,
                start_new_session=True,  # Ctrl-C is for the page, which then ends it
            )
            self._reading = asyncio.create_task(self._read(self._process))
            try:
                await asyncio.wait_for(connected, CONNECT_WITHIN)
            except (Away, asyncio.TimeoutError) as error:
                self._why = str(error) or f"Ray did not accept a connection within {CONNECT_WITHIN:g} s"
                await self.close()
                raise Away(self._why) from None
            self._why = "Ray is gone"
            self._started_at = time.monotonic()
            return self._process

    async def _read(self, process: Process) -> None:
        """Hand each answer to whoever waits for it, until the process ends."""
        assert process.stdout is not None
        while line := await process.stdout.readline():
            answer = json.loads(line)
            waiter = self._waiting.get(answer["id"])
            if answer.get("kind") == "absent":
                self._good_at = time.monotonic()  # Ray itself is there
            if waiter is None or waiter.done():
                continue
            if "error" not in answer:
                waiter.set_result(answer["value"])
            else:
                waiter.set_exception(_ERRORS[answer["kind"]](answer["error"]))
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(Away(self._why))
