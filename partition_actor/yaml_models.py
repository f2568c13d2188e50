"""Read a YAML file into a pydantic model, and name the file, the line and the field of every problem.

::

    document = read_yaml("settings.yaml", example="ttl: 10")
    problems = [...]            # explain(ValidationError) and clashes(...)
    document.refuse(problems)   # raises InvalidSettings if there are any

Each problem becomes a line ``file:line: field: got ..., expected ...``. Private, and free of Ray.
"""

from __future__ import annotations

import difflib
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from partition_actor.errors import InvalidSettings

Location = tuple[str | int, ...]
"""Where a value is: the keys and indices that lead to it."""

Model = TypeVar("Model", bound=BaseModel)

# A few aliases can stand for billions of values; no file written by hand has more than this.
_MAX_VALUES = 100_000

# Pydantic's error types whose message does not say what it expected; the names in braces are its context's.
_EXPECTED = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "too_short": "a list of {min_length} or more",
    "string_too_short": "{min_length} or more characters",
    "string_pattern_mismatch": "text that matches {pattern}",
    "union_tag_invalid": "{expected_tags}",
}

_NOTHING = object()


@dataclass(frozen=True)
class Problem:
    """What is wrong with a value.

    Attributes:
        location: the value's.
        expected: what was expected; the whole message if there is no ``got``.
        got: the value.
        other: the field that the value clashes with.
        line: 1-based; None: that of the location, or else of ``other``.
    """

    location: Location
    expected: str
    got: object = _NOTHING
    other: str = ""
    line: int | None = None

    def __str__(self) -> str:
        steps = (str(step) if str(step).isprintable() else repr(step) for step in self.location)
        return f"{'.'.join(steps) or 'the file'}: {self.message}"

    @property
    def message(self) -> str:
        """The message without the location."""
        return self.expected if self.got is _NOTHING else f"got {reprlib.repr(self.got)}, expected {self.expected}"


class Rule(NamedTuple):
    """What two fields must keep between them: ``holds(value of field, value of other)``."""

    field: str
    other: str
    holds: Callable[[Any, Any], bool]
    expected: str


def explain(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Return the problems that pydantic found with the fields of the model."""
    problems = []
    for each in error.errors(include_url=False):
        location, kind, got, context = each["loc"], each["type"], each["input"], each.get("ctx", {})
        if kind == "extra_forbidden":
            problems.append(Problem(location, _known_names(location, model), got))
        elif kind == "value_error":
            problems.append(Problem(location, str(context["error"])))
        elif kind in ("missing", "union_tag_not_found"):
            tag = () if kind == "missing" else (context["discriminator"].strip("'"),)
            problems.append(Problem((*location, *tag), "field required"))
        elif kind == "union_tag_invalid":
            discriminator = context["discriminator"].strip("'")
            problems.append(Problem((*location, discriminator), _EXPECTED[kind].format(**context), context["tag"]))
        elif kind != "too_short" or not got:  # a list of nothing but bad items is too short for pydantic as well
            message = each["msg"].removeprefix("Input should be ")
            expected = _EXPECTED[kind].format(**context) if kind in _EXPECTED else message
            number = "a number " if expected.startswith(("greater", "less")) else ""
            problems.append(Problem(location, number + expected, got))
    return problems


def clashes(
    rules: Iterable[Rule], model: type[BaseModel], values: Mapping[str, Any], problems: Iterable[Problem]
) -> list[Problem]:
    """Return the rules that the values and the model's defaults break, among fields that have no problem yet."""
    wrong = {problem.location[:1] for problem in problems}
    defaults = {name: info.default for name, info in model.model_fields.items()}
    given = {name: value for name, value in {**defaults, **values}.items() if (name,) not in wrong}
    return [
        Problem((name,), f"{expected}, and {other} is {given[other]}", given[name], other)
        for name, other, holds, expected in rules
        if name in given and other in given and not holds(given[name], given[other])
    ]


@dataclass
class Document:
    """One YAML mapping, with the source of everything in it; without a file, an empty one."""

    name: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)  # keys that a mapping has twice
    lines: dict[Location, int] = field(default_factory=dict)  # 1-based
    sources: dict[Location, str] = field(default_factory=dict)  # of lists and mappings

    def load(
        self,
        model: type[Model],
        overrides: Mapping[str, Any],
        rules: Iterable[Rule] = (),
        context: Mapping[str, Any] | None = None,
    ) -> Model:
        """Return the model of the file's values, with the command line's values over them.

        Raises:
            InvalidSettings: as ``refuse``.
        """
        given = {**self.values, **overrides}
        made, problems = None, []
        try:
            made = model.model_validate(given, context=context)
        except ValidationError as error:
            problems = explain(error, model)
        self.refuse(problems + clashes(rules, model, given, problems), overrides)
        assert made is not None
        return made

    def refuse(self, problems: Iterable[Problem], overrides: Mapping[str, Any] | None = None) -> None:
        """Raise an error that names every problem, if there is one.

        Raises:
            InvalidSettings: its lines are ``file:line: field: got ..., expected ...`` in the file's order, after
                ``--option value: expected ...`` for values from the command line.
        """
        placed = [self._placed(problem, overrides or {}) for problem in [*self.problems, *problems]]
        if placed:
            raise InvalidSettings("\n".join(text for _, text in sorted(placed)))

    def _placed(self, problem: Problem, overrides: Mapping[str, Any]) -> tuple[int, str]:
        for name in (*map(str, problem.location[:1]), problem.other):
            if name in overrides:
                expected = f"expected {problem.expected}" if problem.got is not _NOTHING else problem.expected
                said = expected if name != problem.other else str(problem)
                return 0, f"--{name} {overrides[name]}: {said}"
            if (name,) in self.lines:
                break
        location = self._without_tags(problem.location)
        got = self.sources.get(location, problem.got) if problem.got is not _NOTHING else _NOTHING
        line = problem.line or self._line(location) or self._line((problem.other,)) or 1
        return line, f"{self.name}:{line}: {Problem(location, problem.expected, got)}"

    def _line(self, location: Location) -> int | None:
        """Return the line of the deepest value on the way to the location."""
        found = (self.lines.get(location[:depth]) for depth in range(len(location), 0, -1))
        return next((line for line in found if line is not None), None)

    def _without_tags(self, location: Location) -> Location:
        """Drop the steps that lead nowhere: pydantic names the member of a tagged union among the keys."""
        kept: Location = ()
        for n, step in enumerate(location):
            if (*kept, step) in self.lines or n == len(location) - 1:
                kept = (*kept, step)
        return kept


def read_yaml(path: str | os.PathLike[str], example: str) -> Document:
    """Read a YAML file that holds one mapping, or nothing.

    Args:
        path: the file's.
        example: a line of such a mapping, for the message.

    Raises:
        InvalidSettings: the file cannot be read, is not YAML, holds something else, or a value contains itself.
    """
    name = os.fspath(path)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidSettings(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidSettings(f"{name}: got bytes that are not UTF-8, expected a YAML file") from error
    document = Document(name)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None and node.tag != "tag:yaml.org,2002:null":  # more than comments or a bare ---
            _Builder(document, loader, text).build(node, example)
    except (yaml.YAMLError, RecursionError) as error:
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "nested too deeply"
        raise InvalidSettings(f"{name}:{_line_of(error, text)}: not YAML: {reason}") from error
    return document


class _Unreadable:
    """The source of a scalar that is no plain value, such as ``!!int x``; no field takes it."""

    def __init__(self, source: str) -> None:
        self._source = source

    def __repr__(self) -> str:
        return repr(self._source)


class _Builder:
    """Builds the values of a document from YAML nodes, because nodes know their lines."""

    def __init__(self, document: Document, loader: yaml.SafeLoader, text: str) -> None:
        self._document = document
        self._loader = loader
        self._text = text

    def build(self, node: yaml.Node, example: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            place, got = f"{self._document.name}:{_line(node)}", reprlib.repr(self._shown(node))
            raise InvalidSettings(f"{place}: got {got}, expected a mapping of settings, such as {example!r}")
        self._document.values = self._value(node, (), ())

    def _value(self, node: yaml.Node, location: Location, inside: tuple[yaml.Node, ...]) -> Any:
        place = f"{self._document.name}:{self._document.lines.setdefault(location, _line(node))}"
        if any(node is outer for outer in inside):
            raise InvalidSettings(f"{place}: {'.'.join(map(str, location))}: an alias of a value that contains it")
        if len(self._document.lines) > _MAX_VALUES:
            raise InvalidSettings(f"{place}: more than {_MAX_VALUES} values")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        self._document.sources[location] = self._source(node)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(each, (*location, n), (*inside, node)) for n, each in enumerate(node.value)]
        assert isinstance(node, yaml.MappingNode)
        return self._mapping(node, location, (*inside, node))

    def _mapping(self, node: yaml.Node, location: Location, inside: tuple[yaml.Node, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else self._source(key_node)
            line, at = _line(key_node), (*location, key)
            if key in values:
                expected = f"it once: line {self._document.lines[at]} has it already"
                self._document.problems.append(Problem(at, expected, self._shown(value_node), line=line))
            else:
                self._document.lines[at] = line
                values[key] = self._value(value_node, at, inside)
        return values

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag.removeprefix("tag:yaml.org,2002:") in {"int", "float", "bool", "str", "null"}:
            try:
                return self._loader.construct_object(node)
            except (ValueError, KeyError):  # such as !!int x
                pass
        return _Unreadable(self._source(node))

    def _shown(self, node: yaml.Node) -> Any:
        return self._scalar(node) if isinstance(node, yaml.ScalarNode) else self._source(node)

    def _source(self, node: yaml.Node) -> str:
        return self._text[node.start_mark.index : node.end_mark.index].rstrip()


def _known_names(location: Location, model: type[BaseModel]) -> str:
    if len(location) > 1:
        return "no such key here"
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(location[0]), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"they are {', '.join(known)}"
    return f"the name of a setting: {hint}"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _line_of(error: Exception, text: str) -> int:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return int(mark.line) + 1
    return text.count("\n", 0, getattr(error, "position", 0)) + 1
