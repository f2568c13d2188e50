"""Says what to install when a package that the programs need beyond the library is missing."""

from __future__ import annotations

from importlib.util import find_spec

_PACKAGES = ("httpx", "psutil", "pyarrow")


class MissingExtra(ImportError):
    """Packages that a program needs are not installed. The message says how to install them."""


def check_extra(program: str, *packages: str) -> None:
    """Raise ``MissingExtra`` when packages that this program needs are not installed: these, or those of all."""
    missing = [package for package in packages or _PACKAGES if find_spec(package) is None]
    if missing:
        raise MissingExtra(f"{program} needs {', '.join(missing)}: pip install 'partition-actor[jobs]'")
