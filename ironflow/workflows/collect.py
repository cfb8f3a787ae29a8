"""How a step that joins a fan-out takes it: `Annotated[list[E], Collect(Take(2))]`."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["All", "Cardinality", "Collect", "Take"]


@dataclass(frozen=True)
class All:
    """Enter the step once the fan-out is over, with all that came of it."""


@dataclass(frozen=True)
class Take:
    """Enter the step with the first `n`; what comes later is dropped. When the fan-out is over
    before, it is entered with what there is.
    """

    n: int

    def __post_init__(self) -> None:
        if type(self.n) is not int or self.n < 1:
            raise ValueError(f"Take(n) needs a whole number of at least 1, not {self.n!r}")


Cardinality = All | Take


@dataclass(frozen=True)
class Collect:
    """Marks the `list[E]` parameter of a joining step."""

    cardinality: Cardinality = field(default_factory=All)
