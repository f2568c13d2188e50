"""Several hosts out of one machine, to cut off from each other, slow down and power off.

Each host has network, mount, PID, IPC and UTS namespaces of its own: an address, a home, a /tmp, a /dev/shm, processes
and an sshd. They are joined by a bridge in a network namespace of its own, which leads nowhere. The rest of the file
system and the clock are shared.

The namespaces have no names: they last as long as their first process. A supervisor holds those, and ends when its
standard input does. So whatever happens to the test's process, nothing is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

TOOLS = ["ip", "nft", "nsenter", "setpriv", "ssh-keygen", "sshd", "unshare"]
ROOT = Path(__file__).parents[2]
DOWN_WITHIN = 300.0
"""Seconds: a home may hold much."""
os.environ["PATH"] += os.pathsep + os.pathsep.join(["/usr/sbin", "/sbin"])


def missing() -> str | None:
    """Why no hosts can be made on this machine, or None."""
    if os.geteuid():
        return "only root can make hosts"
    if lacking := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"no {', '.join(lacking)}: apt-get install iproute2 nftables openssh-server"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "no /dev/net/tun"
    trial = "ip link add br0 type bridge && nft add table bridge t"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--mount-proc", "sh", "-c", trial],
        capture_output=True,
        text=True,
    )
    return f"no namespaces: {tried.stderr.strip()}" if tried.returncode else None


def address(host: int) -> str:
    """The address of a host, the same in every bed: they do not see each other."""
    return f"10.231.9.{host + 1}"


class Hosts:
    """A context manager that makes hosts 0 to `number` - 1.

    Args:
        number: how many.
        share: directories that all hosts and this process see at their own path, also if it is below the home or
            /tmp, which the hosts do not see otherwise. This Python, its environment and the checkout always are.
    """

    def __init__(self, number: int, share: Sequence[Path] = ()) -> None:
        self.number = number
        self._share = list(dict.fromkeys([Path(sys.base_prefix), Path(sys.prefix), ROOT, *share]))
        self._pids: list[int] = []
        """Of each host's first process, in this PID namespace."""
        self._dropped: set[tuple[int, int]] = set()
        """Frames from the one host to the other get lost."""
        self._relays: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Hosts:
        self.folder = Path(tempfile.mkdtemp(prefix="hosts-"))
        self._supervisor = subprocess.Popen(
            [sys.executable, __file__, str(self.folder), str(self.number), *map(str, self._share)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # so that Ctrl-C does not reach it
        )
        assert self._supervisor.stdout is not None
        line = self._supervisor.stdout.readline()
        if not line:
            self.__exit__()
            raise RuntimeError(f"no hosts came up: the supervisor ended with status {self._supervisor.returncode}")
        self._bridge, *self._pids = json.loads(line)
        self._nft("add table bridge cuts", "add chain bridge cuts forward { type filter hook forward priority 0; }")
        return self

    def __exit__(self, *_: object) -> None:
        for host in list(self._relays):
            self._end_relay(host)
        with contextlib.suppress(BrokenPipeError):
            self._supervisor.communicate(timeout=DOWN_WITHIN)

    # -- what runs on a host ----------------------------------------------------------------------------------------

    def command(self, host: int, argv: Sequence[str | Path]) -> list[str]:
        """The command that runs `argv` on a host, in its namespaces and with this process's environment.

        If the command is killed, so is its process on the host, but not what that has started.
        """
        enter = ["nsenter", f"--target={self._pids[host]}", "--net", "--mount", "--pid", "--ipc", "--uts"]
        return [*enter, f"--wdns={ROOT}", "--", "setpriv", "--pdeathsig", "KILL", *map(str, argv)]

    def popen(self, host: int, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start `argv` on a host; `options` are those of `subprocess.Popen`."""
        return subprocess.Popen(self.command(host, argv), **options)

    def run(self, host: int, argv: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run `argv` on a host; `options` are those of `subprocess.run`. By default its output is captured as text."""
        options = {"capture_output": True, "text": True} | options
        return subprocess.run(self.command(host, argv), **options)

    def home(self, host: int) -> Path:
        """Where a host's home is seen from here."""
        return self.folder / str(host) / "home"

    def tmp(self, host: int) -> Path:
        """Where a host's /tmp is seen from here."""
        return self.folder / str(host) / "tmp"

    # -- faults -----------------------------------------------------------------------------------------------------

    def cut(self, host: int, way: Literal["both", "in", "out"] = "both") -> None:
        """Cut a host off from all others: take its link down, or lose silently what is sent to it or by it."""
        others = [other for other in range(self.number) if other != host]
        if way == "both":
            self._in_bridge("ip", "link", "set", f"v{host}", "down")
        elif way == "in":
            self._drop(*((other, host) for other in others))
        else:
            self._drop(*((host, other) for other in others))

    def cut_between(self, host: int, other: int) -> None:
        """Lose silently what two hosts send each other."""
        self._drop((host, other), (other, host))

    def impair(self, host: int, loss: float = 0.0, delay: float = 0.0) -> None:
        """Lose this fraction of a host's frames and hold the others for `delay` seconds, in each direction."""
        self._end_relay(host)
        relay = [sys.executable, str(Path(__file__).with_name("relay.py")), str(host), str(loss), str(delay)]
        self._relays[host] = started = subprocess.Popen([*self._enter_bridge, *relay], stdout=subprocess.PIPE)
        assert started.stdout is not None
        if not started.stdout.readline():
            raise RuntimeError(f"the relay of host {host} ended with status {started.wait()}")

    def heal(self, host: int) -> None:
        """End all faults of a host, but for a power failure."""
        self._dropped = {pair for pair in self._dropped if host not in pair}
        self._drop()
        self._end_relay(host)
        self._in_bridge("ip", "link", "set", f"v{host}", "up")

    def power_off(self, host: int) -> None:
        """End everything that runs on a host at once, and for good. Nobody is told, not even by a connection's end."""
        self._in_bridge("ip", "link", "set", f"v{host}", "down")
        os.kill(self._pids[host], signal.SIGKILL)

    @property
    def _enter_bridge(self) -> list[str]:
        return ["nsenter", f"--target={self._bridge}", "--net", "--", "setpriv", "--pdeathsig", "KILL"]

    def _in_bridge(self, *argv: str, **options: Any) -> None:
        subprocess.run([*self._enter_bridge, *argv], check=True, **options)

    def _drop(self, *pairs: tuple[int, int]) -> None:
        self._dropped |= {*pairs}
        # A host is at v…, or at t… behind a relay.
        rule = "add rule bridge cuts forward iifname {{ v{0}, t{0} }} oifname {{ v{1}, t{1} }} drop"
        self._nft("flush chain bridge cuts forward", *(rule.format(*pair) for pair in sorted(self._dropped)))

    def _nft(self, *lines: str) -> None:
        self._in_bridge("nft", "-f", "-", input="\n".join(lines) + "\n", text=True)

    def _end_relay(self, host: int) -> None:
        if relay := self._relays.pop(host, None):
            relay.kill()
            relay.communicate()
            self._in_bridge("ip", "link", "set", f"v{host}", "master", "br0")
            self._in_bridge("ip", "link", "delete", f"b{host}")


# -- the supervisor -------------------------------------------------------------------------------------------------

FIRST_PROCESS = r"""
set -e
home=$1; cd "$2"; shift 2
# What is shared may lie below what is about to be covered, and nothing should stay mounted there out of reach.
exec 3< home; fds=(); shown=()
for path in "$@"; do
    case "$path/" in "$home"/* | /tmp/*) exec {fd}< "$path"; fds+=("$fd"); shown+=("$path") ;; esac
done
sed -n 's|^[^ ]* \(/run/[^ ]*\) .*|\1|p' /proc/self/mounts | xargs -r umount --lazy
mount --bind tmp /tmp
mount --no-canonicalize --bind /proc/self/fd/3 "$home"
for at in "${!fds[@]}"; do
    mkdir -p "${shown[at]}"; mount --no-canonicalize --bind "/proc/self/fd/${fds[at]}" "${shown[at]}"
done
exec 3<&-; for fd in "${fds[@]}"; do exec {fd}<&-; done; cd /
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
ip link set lo up
sshd=$(command -v sshd) # sshd starts itself again, for which it needs its full path
"$sshd" -f /dev/null -h "$home/.ssh/host_key" -E /tmp/sshd.log -o PermitRootLogin=yes -o StrictModes=no \
    -o PidFile=none -o "SetEnv=PATH=$PATH"
echo up
exec > /dev/null
while :; do sleep 1000000 & wait; done # and reap what has lost its parent
"""


def _start(*argv: str, **options: Any) -> subprocess.Popen[str]:
    """Start a process that is killed when this one ends."""
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *argv], text=True, stdin=subprocess.DEVNULL, **options)


def _start_host(folder: Path, host: int, share: list[str]) -> subprocess.Popen[str]:
    tree = folder / str(host)
    ssh = tree / "home" / ".ssh"
    ssh.mkdir(parents=True, mode=0o700)
    (tree / "tmp").mkdir()
    (tree / "tmp").chmod(0o1777)
    for key, name in (("key", "id_ed25519"), ("key.pub", "authorized_keys"), ("key", "host_key")):
        shutil.copy(folder / key, ssh / name)
        (ssh / name).chmod(0o600)
    own = ["--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child=KILL", "--mount-proc"]
    script = f"hostname host{host}\n{FIRST_PROCESS}"
    arguments = [str(Path.home()), str(tree), *share]
    host_process = _start("unshare", *own, "bash", "-c", script, "host", *arguments, stdout=subprocess.PIPE)
    assert host_process.stdout is not None
    if not host_process.stdout.readline():
        raise SystemExit(f"host {host} ended with status {host_process.wait()}")
    return host_process


def _child(process: subprocess.Popen[str]) -> int:
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


def _connect(bridge: int, pid: int, host: int) -> None:
    """Give a host an address on the bridge.

    Its default route leads to nobody, but without one Ray takes the host's address for 127.0.0.1.
    """
    link = ["ip", "link", "add", f"v{host}", "type", "veth", "peer", "name", "eth0", "netns", str(pid)]
    for target, argv in (
        (bridge, link),
        (bridge, ["ip", "link", "set", f"v{host}", "master", "br0", "up"]),
        (pid, ["ip", "address", "add", f"{address(host)}/24", "dev", "eth0"]),
        (pid, ["ip", "link", "set", "eth0", "up"]),
        (pid, ["ip", "route", "add", "default", "via", "10.231.9.254"]),
    ):
        subprocess.run(["nsenter", f"--target={target}", "--net", "--", *argv], check=True)


def supervise(folder: Path, number: int, share: list[str]) -> None:
    """Make the hosts, tell their pids, and remove all when standard input ends."""
    started: list[subprocess.Popen[str]] = []
    try:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
        make_bridge = "ip link add br0 type bridge; ip link set br0 up; echo up; exec sleep 1000000"
        started.append(_start("unshare", "--net", "sh", "-c", make_bridge, stdout=subprocess.PIPE))
        assert started[0].stdout is not None
        started[0].stdout.readline()
        pids = [started[0].pid]
        for host in range(number):
            started.append(_start_host(folder, host, share))
            pids.append(_child(started[-1]))
            _connect(pids[0], pids[-1], host)
        print(json.dumps(pids), flush=True)
        sys.stdin.read()
    finally:
        for process in started:
            process.kill()  # and with it, the first process of its namespaces
            process.wait()
        while folder.exists():  # a host's last processes may still write
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    supervise(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
