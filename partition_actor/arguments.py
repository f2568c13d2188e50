"""Checks of the arguments of public calls. Each returns its value or raises ``InvalidArgument``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from partition_actor.errors import InvalidArgument
from partition_actor.settings import Settings

# Every member holds every other member's id, so ids cost n times n times their length.
MAX_ID_BYTES = 1024
# The partition actor holds every member's metadata, and tells all of a group's in one reply.
MAX_METADATA_BYTES = 65_536
# A member has `vnodes` virtual nodes on the hash ring for each unit of weight.
MAX_WEIGHT = 1000
# One day. A longer timeout is a mistake, and a much longer one overflows a thread's wait.
MAX_SECONDS = 86_400


def refuse(name: str, value: object, expected: str) -> NoReturn:
    """Raise ``InvalidArgument`` for argument `name`, showing at most 80 characters of `value`."""
    try:
        shown = repr(value)
    except Exception:
        shown = f"a {type(value).__name__} whose repr() fails"
    if len(shown) > 80:
        shown = f"{shown[:60]}… ({len(shown)} characters)"
    raise InvalidArgument(f"{name}: got {shown}, expected {expected}")


def check_text(name: str, value: object, *, empty: bool = False, limit: int = MAX_ID_BYTES) -> str:
    """A ``str`` of 1 (0 if `empty`) to `limit` bytes in UTF-8."""
    if not isinstance(value, str):
        refuse(name, value, f"a str, not {type(value).__name__}")
    if not value and not empty:
        refuse(name, value, "a non-empty str")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        refuse(name, value, "text that UTF-8 can encode, without lone surrogates")
    if length > limit:
        refuse(name, value, f"at most {limit} bytes in UTF-8, not {length}")
    return value


def check_weight(value: object, name: str = "weight") -> int:
    """An ``int`` from 1 to 1000: the member's share relative to that of the others."""
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(name, value, f"an int from 1 to {MAX_WEIGHT}, not {type(value).__name__}")
    if not 1 <= value <= MAX_WEIGHT:
        refuse(name, value, f"an int from 1 to {MAX_WEIGHT}")
    return value


def check_mode(value: object, name: str = "exclusive") -> bool | None:
    """True, False, or None for the mode that the group already has."""
    if value is not None and not isinstance(value, bool):
        refuse(name, value, "True, False or None")
    return value


def check_metadata(value: object) -> Any:
    """None or a dict with str keys; see ``metadata`` for its values."""
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        refuse("metadata", value, "None or a dict whose keys are str")
    return value


def check_packed_metadata(value: object) -> bytes | None:
    """None or the ``bytes`` of packed metadata, at most 65536."""
    if value is not None and not isinstance(value, bytes):
        refuse("metadata", value, f"None or packed metadata as bytes, not {type(value).__name__}")
    if value is not None and len(value) > MAX_METADATA_BYTES:
        refuse("metadata", value, f"at most {MAX_METADATA_BYTES} bytes, not {len(value)}")
    return value


def check_flag(name: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        refuse(name, value, "True or False")
    return value


def check_keys(value: Any) -> Any:
    """Any iterable of keys, or a one-dimensional array of numpy or Arrow.

    A single str or bytes is refused: it is nearly always a mistake.
    """
    expected = "an iterable of keys or a one-dimensional array"
    if isinstance(value, (str, bytes, bytearray)):
        refuse("items", value, f"{expected}, not one {type(value).__name__}")
    if not isinstance(value, Iterable) or hasattr(value, "column_names"):
        refuse("items", value, f"{expected}, not {type(value).__name__}")
    if (dimensions := getattr(value, "ndim", 1)) != 1:
        refuse("items", value, f"{expected}, not one of {dimensions} dimensions")
    return value


def check_items(value: object) -> list[Any]:
    """The same, as a list."""
    return list(check_keys(value))


def check_actor(actor: Any, namespace: object, settings: object, *, optional: bool = False) -> None:
    """A partition actor's name or handle (or None, if `optional`), a namespace, and a Settings or None."""
    if isinstance(actor, str):
        check_text("actor", actor)
    elif not (actor is None and optional) and not hasattr(actor, "sync"):
        refuse("actor", actor, f"the partition actor's name{', its handle or None' if optional else ' or handle'}")
    if settings is not None and not isinstance(settings, Settings):
        refuse("settings", settings, "a Settings or None")
    check_text("namespace", namespace)


def check_seconds(name: str, value: object, most: float = MAX_SECONDS) -> float:
    """An ``int`` or ``float`` above 0 and at most `most`, by default 86400 (one day)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        refuse(name, value, f"a number of seconds above 0, not {type(value).__name__}")
    if not 0 < value <= most:
        refuse(name, value, f"a number of seconds above 0 and at most {most}")
    return value


def check_number(name: str, value: object, least: int = -1, most: int | None = None) -> int:
    """An ``int`` of at least `least` and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        refuse(name, value, f"an int of at least {least}{'' if most is None else f' and at most {most}'}")
    return value


def check_slot(value: object, most: int) -> int | None:
    """None for the lowest slot that is free, of True; or an ``int`` from 0 to `most`."""
    if value is True:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        refuse("slot", value, f"None, True for the lowest that is free, or an int from 0 to {most}")
    return value


def check_callback(value: Any) -> Callable[[Any], Any]:
    """A callable of one argument."""
    if not callable(value):
        refuse("callback", value, "a function of one argument")
    return value  # type: ignore[no-any-return]


def check_session(value: object) -> str:
    """None (all callers under this id share one session) or a str that no other process uses."""
    return "" if value is None else check_text("session", value)


def check_caller(value: Any) -> Any:
    """None or an actor's handle."""
    if value is not None and not (hasattr(value, "_actor_id") and hasattr(value, "__ray_call__")):
        refuse("actor", value, "None or the handle of the actor that calls: ray.get_runtime_context().current_actor")
    return value


def check_watch(value: object) -> None:
    """None, or a dict with the fields of ``processes.ProcessIdentity``: a handle, four short texts and a list."""
    if value is None:
        return
    texts = ("node", "actor", "worker", "process")
    if not isinstance(value, dict) or not {"handle", "owned", *texts} <= value.keys():
        refuse("watch", value, f"None or a dict with handle, {', '.join(texts)} and owned")
    if not all(isinstance(value[name], str) for name in texts):
        refuse("watch", value, f"a str for each of {', '.join(texts)}")
    for name in texts:
        check_text(f"watch, {name}", value[name], empty=True)
    handle, owned = value["handle"], value["owned"]
    if (value["actor"] or handle is not None) and not hasattr(handle, "__ray_call__"):
        refuse("watch", handle, "an actor's handle")
    if owned is not None and not (isinstance(owned, list) and len(owned) == 1 and hasattr(owned[0], "task_id")):
        refuse("watch", owned, "None or a list of one reference")
