"""Messages as they go over a websocket, made once for however many clients get them."""

from __future__ import annotations


def make_packet(frame: bytes) -> bytes:
    """A message as it goes over the wire: one whole text frame of a server (RFC 6455)."""
    size = len(frame)
    if size < 126:
        head = bytes((0x81, size))
    elif size < 65_536:
        head = b"\x81\x7e" + size.to_bytes(2)
    else:
        head = b"\x81\x7f" + size.to_bytes(8)
    return head + frame
