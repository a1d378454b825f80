"""A configuration's YAML document: read, changed by `--set`, and decoded into a struct with errors that help."""

import difflib
import re
from typing import Any, TypeVar, get_args

import msgspec
import yaml

from streamserve.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's booleans: `off`, `on`, `no` and `yes` are words, where YAML 1.1 reads them as booleans."""


_BOOLEAN = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOLEAN, re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))


_UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)
"""What PyYAML raises for a text that is none; `ValueError` for a date like 2026-13-45."""


def parse(text: str, source: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; `source` names it in errors. Raises `ConfigError`."""
    try:
        document = yaml.load(text, _Loader)
    except _UNREADABLE as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{source} must be a mapping of keys to values")
    return document


def override(document: dict[str, Any], assignment: str) -> None:
    """Apply ``a.b.0.c=value`` in place; missing mappings on the way are made. Raises `ConfigError`."""
    path, separator, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"--set {assignment!r}: write key=value, e.g. --set engine.max_running=16")
    try:
        value = yaml.load(text, _Loader)
    except _UNREADABLE as error:
        raise ConfigError(f"--set {assignment!r}: the value is not valid YAML") from error
    node: Any = document
    for key in keys[:-1]:
        node = _step_into(node, key, assignment)
    if isinstance(node, list):
        node[_index(node, keys[-1], assignment)] = value
    elif isinstance(node, dict):
        node[keys[-1]] = value
    else:
        raise ConfigError(f"--set {assignment!r}: {keys[-2]!r} is a value, it has no keys")


def decode(document: dict[str, Any], struct: type[S], source: str) -> S:
    """The document as a struct; raises `ConfigError` with the place and, where one is near, the right key."""
    try:
        return msgspec.convert(document, struct)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explain(str(error), struct)}") from error


def _step_into(node: Any, key: str, assignment: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, key, assignment)]
    if isinstance(node, dict):
        if node.get(key) is None:
            node[key] = {}
        return node[key]
    raise ConfigError(f"--set {assignment!r}: {key!r} is below a value that has no keys")


def _index(items: list[Any], key: str, assignment: str) -> int:
    if not key.isdecimal() or int(key) >= len(items):
        raise ConfigError(f"--set {assignment!r}: {key!r} must be a position from 0 to {len(items) - 1}")
    return int(key)


_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`(?: - at `\$\.?(?P<place>[^`]*)`)?")


def _explain(message: str, struct: type[msgspec.Struct]) -> str:
    unknown = _UNKNOWN.match(message)
    if not unknown:
        return message
    place = unknown["place"] or ""
    known = _keys_at(struct, place)
    near = difflib.get_close_matches(unknown["name"], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"no key {unknown['name']!r}{f' in {place}' if place else ''}; {hint}"


def _keys_at(struct: type[msgspec.Struct], place: str) -> list[str]:
    """The keys that are known at a place like ``lanes[1]``."""
    at: Any = struct
    for key in filter(None, re.sub(r"\[[^]]*\]", "", place).split(".")):
        (kind,) = (field.type for field in msgspec.structs.fields(at) if field.name == key)
        at = next(iter(get_args(kind)), kind)
    return list(at.__struct_fields__)
