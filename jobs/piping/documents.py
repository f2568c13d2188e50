"""A YAML file with the line of everything in it, so that what is wrong can be said with its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from polling.joining import InputError

Where = tuple[str | int, ...]
"""Where something is in a document: the keys and the indices that lead to it."""

# An alias may stand for any number of further aliases; a file that a person wrote has no more values.
_MAX_VALUES = 100_000


@dataclass(frozen=True)
class Document:
    """What a YAML file says."""

    name: str
    value: Any
    lines: Mapping[Where, int]  # 1-based

    def line(self, path: Iterable[str | int]) -> int:
        """The line of the deepest thing on the path that is there.

        Steps that lead nowhere are passed over, such as the tags that pydantic puts among the keys.
        """
        at: Where = ()
        for step in path:
            if (*at, step) in self.lines:
                at = (*at, step)
        return self.lines[at]

    def place(self, path: Iterable[str | int]) -> str:
        """``file:line``."""
        return f"{self.name}:{self.line(path)}"


def read_document(name: str) -> Document:
    """Reads one YAML document.

    Raises:
        InputError: the file cannot be read or is no YAML, has a key twice in one mapping, or a part of it
            contains itself. The message begins with ``file:`` or ``file:line:``.
    """
    try:
        text = Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{name}: not UTF-8 text") from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{name}:{line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{name}:1: not YAML: {' '.join(str(error).split())}") from None
    lines: dict[Where, int] = {(): 1}
    value = None if node is None else _Builder(name, loader, lines).build(node, (), ())
    return Document(name, value, lines)


class _Builder:
    def __init__(self, name: str, loader: yaml.SafeLoader, lines: dict[Where, int]) -> None:
        self._name = name
        self._loader = loader
        self._lines = lines

    def build(self, node: yaml.Node, path: Where, inside: tuple[yaml.Node, ...]) -> Any:
        line = node.start_mark.line + 1
        self._lines.setdefault(path, line)
        if any(node is outer for outer in inside):
            raise InputError(f"{self._name}:{line}: {_dotted(path)}: an alias of what it is part of")
        if len(self._lines) > _MAX_VALUES:
            raise InputError(f"{self._name}:{line}: more than {_MAX_VALUES} values")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, (*inside, node))
        if isinstance(node, yaml.SequenceNode):
            return [self.build(each, (*path, n), (*inside, node)) for n, each in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Where, inside: tuple[yaml.Node, ...]) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise InputError(f"{self._name}:{line}: {_dotted(path)}: a key must be plain text")
            key = str(key_node.value)
            if key in built:
                first = self._lines[(*path, key)]
                raise InputError(f"{self._name}:{line}: {_dotted((*path, key))}: line {first} has it already")
            self._lines[(*path, key)] = line
            built[key] = self.build(value_node, (*path, key), inside)
        return built

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            return self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError, KeyError, AttributeError):  # such as !!int x
            place, tag = f"{self._name}:{node.start_mark.line + 1}", node.tag.rpartition(":")[2]
            raise InputError(f"{place}: not YAML: {node.value!r} cannot be read as {tag}") from None


def _dotted(path: Where) -> str:
    return ".".join(map(str, path)) or "the file"
