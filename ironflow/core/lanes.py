"""Lanes: how many runs of a function execute at once, in all or for each value of a key.

A run knows the lanes that it belongs to from its creation; it holds a place in each of them exactly
while it executes. So who holds what is nothing but the runs' own states, and no crash can leak a
place.
"""

from __future__ import annotations

import msgspec

from ironflow.core.flow_control import Concurrency, compile_key


def lane_names(
    function_id: str, concurrency: tuple[Concurrency, ...], data: bytes | None
) -> tuple[str, ...]:
    """The lanes of a run with this input (JSON): one for each limit. A value that is missing, or is
    no text, number or truth value, has the lane of `null`.
    """
    if not concurrency:
        return ()
    value = None
    if any(one.key is not None for one in concurrency) and data is not None:
        value = msgspec.json.decode(data)
    names = []
    for number, one in enumerate(concurrency):
        name = f"{function_id}#{number}"
        if one.key is not None:
            found = compile_key(one.key, "concurrency.key").get({"data": value}, None)
            found = None if isinstance(found, dict | list) else found
            name += ":" + msgspec.json.encode(found).decode()
        names.append(name)
    return tuple(names)


def parse_lane(name: str) -> tuple[str, int]:
    """The function of a lane, and which of its limits it is."""
    before = name.partition(":")[0]
    function_id, _, number = before.rpartition("#")
    return function_id, int(number)
