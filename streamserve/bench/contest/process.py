"""One process of a system, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a system."""

    name: str
    argv: tuple[str, ...]
    port: int
    ready: str
    """A URL that answers 200 once the process serves."""
    cores: tuple[int, ...] = ()
    """The only cores that it and what it starts may run on; () = any."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Set on top of this process's own environment."""
    stage: int = 0
    """It is started when every process of the stages before is ready."""
