"""What actors can be told: `Message[R]` is data, and `R` is what it answers when asked."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

R = TypeVar("R")


class Message(msgspec.Struct, Generic[R], frozen=True):
    """Something an actor can be told; `R` is the type of the answer to an ask."""
