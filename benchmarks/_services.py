"""Start and stop the servers that peers need, each on free loopback ports and in a directory of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

HOST, LIMIT = "127.0.0.1", 30.0
ZOOKEEPER_JAR = "/usr/share/java/zookeeper.jar"

Options = Mapping[str, object]


@dataclass(frozen=True)
class Service:
    """A server, how to start it, and tooz's name for it.

    ``needs`` lists files or programs, and ``package`` is the Debian package with them. ``client`` is the Python module
    that tooz needs, and ``scheme`` that of tooz's URL. ``command`` returns the command line for a port, a directory and
    options. The server is up once its answer to ``asked`` contains ``answered``.
    """

    name: str
    package: str
    needs: tuple[str, ...]
    client: str
    scheme: str
    command: Callable[[int, Path, Options], list[str]]
    asked: bytes
    answered: bytes

    def missing(self) -> str | None:
        """What to install before this service can run; None if nothing."""
        if any(shutil.which(need) is None and not Path(need).exists() for need in self.needs):
            return f"not installed: apt-get install {self.package}"
        return None if find_spec(self.client) else f"not installed: pip install {self.client}"


def _redis(port: int, directory: Path, options: Options) -> list[str]:
    command = ["redis-server", "--bind", HOST, "--port", str(port), "--dir", str(directory), "--save", ""]
    return command + [part for name, value in options.items() for part in (f"--{name}", str(value))]


def _etcd(port: int, directory: Path, options: Options) -> list[str]:
    clients, members = f"http://{HOST}:{port}", f"http://{HOST}:{free_port()}"
    urls = {
        "listen-client-urls": clients,
        "advertise-client-urls": clients,
        "listen-peer-urls": members,
        "initial-advertise-peer-urls": members,
        "initial-cluster": f"default={members}",
        "data-dir": directory / "data",
    }
    return ["etcd", *(f"--{name}={value}" for name, value in {**urls, **options}.items())]


def _zookeeper(port: int, directory: Path, options: Options) -> list[str]:
    settings = {
        "tickTime": 2000,  # as in Debian's package and in upstream's example
        "dataDir": directory / "data",
        "clientPort": port,
        "clientPortAddress": HOST,
        "maxClientCnxns": 0,
        "admin.enableServer": "false",
        "4lw.commands.whitelist": "ruok",
        **options,
    }
    config = directory / "zoo.cfg"
    config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return ["java", "-cp", ZOOKEEPER_JAR, "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(config)]


REDIS = Service("redis", "redis-server", ("redis-server",), "redis", "redis", _redis, b"PING\r\n", b"PONG")
ETCD = Service(
    "etcd", "etcd-server", ("etcd",), "etcd3gw", "etcd3+http", _etcd, b"GET /health HTTP/1.0\r\n\r\n", b'"true"'
)
ZOOKEEPER = Service(
    "zookeeper", "zookeeper", ("java", ZOOKEEPER_JAR), "kazoo", "zookeeper", _zookeeper, b"ruok", b"imok"
)


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(service: Service, options: Options) -> Iterator[str]:
    """Run the service during the block; yields ``127.0.0.1:port``. RuntimeError if it does not start."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix=f"bench-{service.name}-") as name:
        directory = Path(name)
        with (directory / "log").open("wb") as log:
            server = subprocess.Popen(
                service.command(port, directory, options), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            _wait_until_up(service, server, port, directory / "log")
            yield f"{HOST}:{port}"
        finally:
            server.kill()  # its data is not needed
            server.wait()


def _wait_until_up(service: Service, server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + LIMIT
    while not _answers(service, port):
        if server.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{service.name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


def _answers(service: Service, port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1) as link:
            link.sendall(service.asked)
            answer = b""
            while service.answered not in answer and (part := link.recv(4096)):
                answer += part
    except OSError:
        return False
    return service.answered in answer
