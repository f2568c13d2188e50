"""Find the inputs, and read their lines from an offset."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

from jobs.driver.command_line import InputError
from jobs.pipelines.offsets import Corrupt, Offset
from jobs.pipelines.samples import CorruptLine, Sample, parse_sample

# Bytes per read: some hundred samples, so that an agent answers calls in between.
CHUNK = 128 * 1024
# Bytes. A longer line is corrupt, and is not kept in memory.
LONGEST = 1024 * 1024
# Bytes kept of a corrupt line.
_KEPT = 64 * 1024


class Chunk(NamedTuple):
    """Some complete lines."""

    samples: list[tuple[int, Sample]]  # and the byte at which its line begins
    corrupt: list[Corrupt]
    end: Offset  # after the last line; ``ended`` is never set here


class Inputs:
    """A file, or the ``*.jsonl`` files below a directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.base = path.parent if path.is_file() else path

    def names(self) -> list[str]:
        """Return the inputs that exist now, sorted, as paths relative to ``base``."""
        if self._path.is_file():
            return [self._path.name]
        return sorted(str(file.relative_to(self.base)) for file in self.base.rglob("*.jsonl") if file.is_file())


def find_inputs(path: str) -> Inputs:
    """Return the inputs at a path.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    found = Path(path).absolute()
    if not found.exists():
        raise InputError(f"--input {path}: no such file or directory; python -m jobs.record records samples")
    inputs = Inputs(found)
    try:
        for name in inputs.names():
            name.encode()
            open(inputs.base / name, "rb").close()
    except OSError as error:
        raise InputError(f"--input {path}: {error.filename}: {error.strerror}") from None
    except UnicodeEncodeError:
        raise InputError(f"--input {path}: {name!r}: expected a name in UTF-8") from None
    return inputs


class LineReader:
    """Reads an input from an offset."""

    def __init__(self, file: Path, offset: Offset, follow: bool) -> None:
        self._file: BinaryIO = open(file, "rb")  # noqa: SIM115 - closed by close()
        self._file.seek(offset.position)
        self._position, self._line = offset.position, offset.line
        self._follow = follow
        self._rest = b""
        self._too_long = 0  # bytes dropped from the current line

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self) -> Chunk | None:
        """Return the next complete lines; None if there are none now.

        Without ``follow`` a last line without a newline counts as complete.
        """
        while True:
            got = self._file.read(CHUNK)
            data = self._rest + got
            if not got and data and not self._follow:
                self._rest = b""
                return self._chunk([data])
            *whole, self._rest = data.split(b"\n")
            if len(self._rest) > LONGEST:
                self._too_long += len(self._rest)
                self._rest = b""
            if whole:
                return self._chunk([line + b"\n" for line in whole])
            if not got:
                return None

    def _chunk(self, lines: list[bytes]) -> Chunk:
        samples, corrupt = [], []
        for line in lines:
            self._line += 1
            try:
                if self._too_long:
                    raise CorruptLine(f"longer than {LONGEST} bytes")
                if text := line.strip():
                    samples.append((self._position, parse_sample(text)))
            except CorruptLine as error:
                corrupt.append(
                    Corrupt(self._line, str(error), line[:_KEPT].decode("utf-8", "backslashreplace").rstrip())
                )
            self._position += self._too_long + len(line)
            self._too_long = 0
        return Chunk(samples, corrupt, Offset(self._position, self._line))
