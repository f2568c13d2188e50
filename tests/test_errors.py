"""The hierarchy of errors is as its docstring draws it, and errors cross a Ray call."""

import builtins
import inspect
import pickle
import re

import pytest

from partition_actor import errors

CLASSES = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, errors.PartitionError)]
DRAWN = dict(re.findall(r"[├└]── (\w+) +\((\w+)\)", errors.__doc__))


def test_every_error_is_drawn_with_its_builtin_base():
    bases = {c.__name__: c.__bases__[1].__name__ for c in CLASSES if c is not errors.PartitionError}
    assert bases == DRAWN


@pytest.mark.parametrize("error", CLASSES)
def test_an_error_is_caught_by_its_builtin_and_pickles_unchanged(error):
    copy = pickle.loads(pickle.dumps(error("ttl: got -1")))
    assert type(copy) is error
    assert str(copy) == "ttl: got -1"
    if error is not errors.PartitionError:
        assert isinstance(copy, getattr(builtins, DRAWN[error.__name__]))


def test_each_error_says_when_it_is_raised():
    assert all(error.__doc__.endswith(".") for error in CLASSES)
