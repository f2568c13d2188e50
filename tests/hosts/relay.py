"""A slow and lossy link, in the bridge's network namespace: every frame of a host goes through this process.

Not every kernel has netem. The host's end of the link and this process's are joined by a bridge of their own, because
then the kernel splits and sums frames as for a real network card.

    python tests/hosts/relay.py HOST LOSS DELAY
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


def tap(name: str, bridge: str) -> int:
    """A network card whose frames this process reads and writes, at a bridge."""
    made = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(made, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "master", bridge, "up"], check=True)
    return made


def relay(one: int, other: int, loss: float, delay: float) -> None:
    """Carry frames both ways, for ever."""
    to, held = {one: other, other: one}, deque[tuple[float, int, bytes]]()
    while True:
        due = max(0.0, held[0][0] - time.monotonic()) if held else None
        for card in select.select([*to], [], [], due)[0]:
            frame = os.read(card, 65536)
            if random.random() >= loss:
                held.append((time.monotonic() + delay, to[card], frame))
        while held and held[0][0] <= time.monotonic():
            _, card, frame = held.popleft()
            os.write(card, frame)


def main() -> None:
    host, loss, delay = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    for argv in (
        ["add", f"b{host}", "type", "bridge"],
        ["set", f"b{host}", "up"],
    ):
        subprocess.run(["ip", "link", *argv], check=True)
    inner, outer = tap(f"a{host}", f"b{host}"), tap(f"t{host}", "br0")
    subprocess.run(["ip", "link", "set", f"v{host}", "master", f"b{host}"], check=True)
    print("up", flush=True)
    relay(inner, outer, float(loss), float(delay))


if __name__ == "__main__":
    main()
