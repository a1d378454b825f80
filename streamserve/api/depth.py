"""The body of ``POST /streamserve/lanes/{lane}/depth``: a depth control and how long it holds."""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec

from streamserve.signals import DepthControl, DepthMode

TTL_S = 60.0
MAX_TTL_S = 86_400.0
DEFAULT = "default"
MODES = f"off, fixed, target_acceptance, specustream, or {DEFAULT} for the lane's own"
SHORT = f"off, fixed:3, target_acceptance:0.6, specustream:1.5, or {DEFAULT}"

Depth = Annotated[int, msgspec.Meta(ge=0, le=1000)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Price = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Ttl = Annotated[float, msgspec.Meta(gt=0, le=MAX_TTL_S)]


class Refused(Exception):
    """The body cannot be used: what to answer, and the field at fault where it is one."""

    def __init__(self, status: HTTPStatus, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for: a control, None = the lane's default; and for how long."""

    control: DepthControl | None
    ttl_s: float


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    mode: Literal["off", "fixed", "target_acceptance", "specustream", "default"] | None = None
    control: str | None | msgspec.UnsetType = msgspec.UNSET
    depth: Depth | msgspec.UnsetType = msgspec.UNSET
    target: Share | msgspec.UnsetType = msgspec.UNSET
    price: Price | msgspec.UnsetType = msgspec.UNSET
    max_depth: Depth | None | msgspec.UnsetType = msgspec.UNSET
    ttl_s: Ttl = TTL_S


def parse(body: bytes) -> Wish:
    """The wish in a JSON body; raises `Refused`."""
    try:
        read = msgspec.json.decode(body, type=_Body | None)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f'the body is not JSON ({error}): send e.g. {{"mode": "fixed", "depth": 3, "ttl_s": 60}}'
        raise Refused(HTTPStatus.BAD_REQUEST, message) from error
    if read is None:
        return Wish(None, TTL_S)
    if read.control is not msgspec.UNSET:
        return Wish(_short(read.control, read), read.ttl_s)
    if read.mode is None:
        raise _unusable(f"name a mode: {MODES}", "mode")
    if read.mode == DEFAULT:
        return Wish(None, read.ttl_s)
    return Wish(_control(DepthMode(read.mode), read), read.ttl_s)


def short(control: DepthControl) -> str:
    """A control in the short form that `parse` reads; the cap of `max_depth` is not in it."""
    argument = {
        DepthMode.FIXED: f":{control.depth}",
        DepthMode.TARGET_ACCEPTANCE: f":{control.target:g}",
        DepthMode.SPECUSTREAM: f":{control.price:g}",
    }
    return f"{control.mode}{argument.get(control.mode, '')}"


def _control(mode: DepthMode, body: _Body) -> DepthControl:
    if mode is DepthMode.FIXED and body.depth is msgspec.UNSET:
        raise _unusable('mode fixed needs its depth, e.g. {"mode": "fixed", "depth": 3}', "depth")
    given = {name: getattr(body, name) for name in ("depth", "target", "price", "max_depth")}
    return DepthControl(mode, **{name: value for name, value in given.items() if value is not msgspec.UNSET})


_ARGUMENTS: dict[DepthMode, tuple[str, Callable[[str], Any], Any]] = {
    DepthMode.FIXED: ("depth", int, Depth),
    DepthMode.TARGET_ACCEPTANCE: ("target", float, Share),
    DepthMode.SPECUSTREAM: ("price", float, Price),
}


def _short(text: str | None, body: _Body) -> DepthControl | None:
    fields = (body.mode or msgspec.UNSET, body.depth, body.target, body.price)
    if any(field is not msgspec.UNSET for field in fields):
        raise _unusable("send either control or mode with its fields, not both", "control")
    if text is None or text == DEFAULT:
        return None
    name, colon, argument = text.partition(":")
    if name not in [mode.value for mode in DepthMode]:
        raise _unusable(f"control {text!r} is none of: {SHORT}", "control")
    mode = DepthMode(name)
    values: dict[str, Any] = {} if body.max_depth is msgspec.UNSET else {"max_depth": body.max_depth}
    if colon or mode is DepthMode.FIXED:
        if mode not in _ARGUMENTS:
            raise _unusable(f"control {text!r}: {name} takes no number", "control")
        field, read, allowed = _ARGUMENTS[mode]
        try:
            values[field] = msgspec.convert(read(argument), allowed)
        except (ValueError, msgspec.ValidationError) as error:
            raise _unusable(
                f"control {text!r}: the {field} after the colon cannot be used ({error})", "control"
            ) from error
    return DepthControl(mode, **values)


def _invalid(message: str) -> Refused:
    what, _, place = message.partition(" - at `$.")
    field = place.rstrip("`") or None
    if "Invalid enum value" in what:
        return _unusable(f"there is no such mode: send {MODES}", field)
    advice = "fields are mode, depth, target, price, max_depth, ttl_s, or the short form control"
    return _unusable(f"{field or 'the body'}: {what[0].lower()}{what[1:]}; {advice}", field)


def _unusable(message: str, param: str | None) -> Refused:
    return Refused(HTTPStatus.UNPROCESSABLE_ENTITY, message, param)
