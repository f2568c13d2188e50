"""Read a YAML file into a pydantic model; report every problem as ``file:line: field: got ..., expected ...``.

Settings and the configs in ``jobs`` are such models. Private: users meet it as ``Settings.load``.
"""

from __future__ import annotations

import difflib
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from partition_actor.errors import InvalidSettings

Location = tuple[str | int, ...]  # the keys and indices that lead to a value
Model = TypeVar("Model", bound=BaseModel)

# A few aliases can stand for billions of values; no file written by hand has more than this.
_MAX_VALUES = 100_000
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "str", "null")}
_NOTHING = object()

# Pydantic's error types whose message does not say what it expected; names in braces are from its context.
_EXPECTED = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "too_short": "a list of {min_length} or more",
    "string_too_short": "{min_length} or more characters",
    "string_pattern_mismatch": "text that matches {pattern}",
}


class Problem(NamedTuple):
    """What is wrong with a value."""

    location: Location
    expected: str  # the whole message if there is no `got`
    got: object = _NOTHING
    other: str = ""  # the field that the value clashes with
    line: int | None = None  # 1-based; None: that of the location, or else of `other`

    def __str__(self) -> str:
        steps = (str(step) if str(step).isprintable() else repr(step) for step in self.location)
        got = "" if self.got is _NOTHING else f"got {reprlib.repr(self.got)}, expected "
        return f"{'.'.join(steps)}: {got}{self.expected}"


class Rule(NamedTuple):
    """What must hold between two fields: ``holds(value of field, value of other)``."""

    field: str
    other: str
    holds: Callable[[Any, Any], bool]
    expected: str


def fill(made: BaseModel, values: Mapping[str, Any], rules: Iterable[Rule] = (), context: Any = None) -> list[Problem]:
    """Set the fields of `made`, which has none yet, or return the problems: pydantic's, then the broken rules.

    Rules see the values and the model's defaults, but no field that already has a problem. `context` is for validators.
    """
    problems = []
    try:
        made.__pydantic_validator__.validate_python(values, self_instance=made, context=context)
    except ValidationError as error:
        problems = _explain(error, type(made))
    wrong = {problem.location[:1] for problem in problems}
    defaults = {name: info.default for name, info in type(made).model_fields.items()}
    given = {name: value for name, value in {**defaults, **values}.items() if (name,) not in wrong}
    return problems + [
        Problem((name,), f"{expected}, and {other} is {given[other]}", given[name], other)
        for name, other, holds, expected in rules
        if name in given and other in given and not holds(given[name], given[other])
    ]


def _explain(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    problems = []
    for each in error.errors(include_url=False):
        location, kind, got, context = each["loc"], each["type"], each["input"], each.get("ctx", {})
        if "discriminator" in context:
            location = (*location, context["discriminator"].strip("'"))
        if kind == "extra_forbidden" and len(location) > 1:
            problems.append(Problem(location, "no such key here", got))
        elif kind == "extra_forbidden":
            near = difflib.get_close_matches(str(location[0]), model.model_fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"they are {', '.join(model.model_fields)}"
            problems.append(Problem(location, f"the name of a setting: {hint}", got))
        elif kind == "value_error":
            problems.append(Problem(location, str(context["error"])))
        elif kind in ("missing", "union_tag_not_found"):
            problems.append(Problem(location, "field required"))
        elif kind == "union_tag_invalid":
            problems.append(Problem(location, context["expected_tags"], context["tag"]))
        elif kind != "too_short" or not got:  # pydantic also calls a list too short if all its items are bad
            message = each["msg"].removeprefix("Input should be ")
            number = "a number " if message.startswith(("greater", "less")) else ""
            expected = _EXPECTED[kind].format(**context) if kind in _EXPECTED else number + message
            problems.append(Problem(location, expected, got))
    return problems


class Document:
    """A YAML file that holds one mapping or nothing, and the line of everything in it.

    ``values`` is the mapping, of builtins. A scalar that is no plain value, such as ``!!int x``, is an object that no
    field takes.

    Args:
        path: the file's; None for an empty document.
        example: a line of such a mapping, for the message.

    Raises:
        InvalidSettings: the file cannot be read, is not YAML, holds something else, or a value contains itself.
    """

    def __init__(self, path: str | os.PathLike[str] | None, example: str) -> None:
        self.values: dict[str, Any] = {}
        self._name = self._text = ""
        self._lines: dict[Location, int] = {}  # 1-based
        self._sources: dict[Location, str] = {}  # of lists and mappings
        self._twice: list[Problem] = []  # keys that a mapping has twice
        if path is None:
            return
        self._name = os.fspath(path)
        try:
            self._text = Path(path).read_text(encoding="utf-8")
            self._loader = yaml.SafeLoader(self._text)
            node = self._loader.get_single_node()
            if node is None or node.tag == "tag:yaml.org,2002:null":  # nothing but comments, or a bare ---
                return
            if not isinstance(node, yaml.MappingNode):
                problem = f"got {reprlib.repr(self._shown(node))}, expected a mapping of settings, such as {example!r}"
                raise InvalidSettings(f"{self._name}:{_line(node)}: {problem}")
            self.values = self._value(node, (), ())
        except OSError as error:
            raise InvalidSettings(f"{self._name}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InvalidSettings(f"{self._name}: got bytes that are not UTF-8, expected a YAML file") from error
        except (yaml.YAMLError, RecursionError) as error:
            reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "nested too deeply"
            raise InvalidSettings(f"{self._name}:{_line_of(error, self._text)}: not YAML: {reason}") from error

    def load(
        self, model: type[Model], overrides: Mapping[str, Any], rules: Iterable[Rule] = (), context: Any = None
    ) -> Model:
        """Return the model of the file's values, with the command line's values over them. Raises as ``refuse``."""
        made = model.__new__(model)
        self.refuse(fill(made, {**self.values, **overrides}, rules, context), overrides)
        return made

    def refuse(self, problems: Iterable[Problem], overrides: Mapping[str, Any] | None = None) -> None:
        """Raise ``InvalidSettings`` with a line for every problem, the file's own included; do nothing without any.

        First come values of the command line, as ``--option value: expected ...``, then ``file:line: field: got ...,
        expected ...`` in the file's order.
        """
        placed = sorted(self._placed(problem, overrides or {}) for problem in [*self._twice, *problems])
        if placed:
            raise InvalidSettings("\n".join(text for _, text in placed))

    def _placed(self, problem: Problem, overrides: Mapping[str, Any]) -> tuple[int, str]:
        """Return the problem's line and its message; 0 for the command line."""
        location, line = self._found(problem.location)
        names = [*map(str, location[:1]), problem.other]
        name = next((name for name in names if name in overrides or (name,) in self._lines), "")
        if name in overrides and problem.line is None:
            expected = problem.expected if problem.got is _NOTHING else f"expected {problem.expected}"
            return 0, f"--{name} {overrides[name]}: {problem if name == problem.other else expected}"
        got = problem.got if problem.got is _NOTHING else self._sources.get(location, problem.got)
        line = problem.line or line or self._lines.get((problem.other,), 1)
        return line, f"{self._name}:{line}: {Problem(location, problem.expected, got)}"

    def _found(self, location: Location) -> tuple[Location, int]:
        """Return the location without steps that lead nowhere, and the line of the deepest value on the way; 0: none.

        Pydantic puts the tags of tagged unions among the keys.
        """
        kept: Location = ()
        line = 0
        for n, step in enumerate(location, 1):
            if (*kept, step) in self._lines or n == len(location):
                kept = (*kept, step)
                line = self._lines.get(kept, line)
        return kept, line

    def _value(self, node: yaml.Node, location: Location, inside: tuple[yaml.Node, ...]) -> Any:
        place = f"{self._name}:{self._lines.setdefault(location, _line(node))}"
        if any(node is outer for outer in inside):
            raise InvalidSettings(f"{place}: {'.'.join(map(str, location))}: an alias of a value that contains it")
        if len(self._lines) > _MAX_VALUES:
            raise InvalidSettings(f"{place}: more than {_MAX_VALUES} values")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        self._sources[location] = self._source(node)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(each, (*location, n), (*inside, node)) for n, each in enumerate(node.value)]
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else self._source(key_node)
            line, at = _line(key_node), (*location, key)
            if key in values:
                expected = f"it once: line {self._lines[at]} has it already"
                self._twice.append(Problem(at, expected, self._shown(value_node), line=line))
            else:
                self._lines[at] = line
                values[key] = self._value(value_node, at, (*inside, node))
        return values

    def _shown(self, node: yaml.Node) -> Any:
        return self._scalar(node) if isinstance(node, yaml.ScalarNode) else self._source(node)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag in _PLAIN:
            try:
                return self._loader.construct_object(node)
            except (ValueError, KeyError):  # such as !!int x
                pass
        return _Unreadable(self._source(node))

    def _source(self, node: yaml.Node) -> str:
        return self._text[node.start_mark.index : node.end_mark.index].rstrip()


class _Unreadable:
    def __init__(self, source: str) -> None:
        self._source = source

    def __repr__(self) -> str:
        return repr(self._source)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _line_of(error: Exception, text: str) -> int:
    mark = getattr(error, "problem_mark", None)
    return int(mark.line) + 1 if mark is not None else text.count("\n", 0, getattr(error, "position", 0)) + 1
