from __future__ import annotations
import msgspec
from typing import Any
def encode_value(v: Any, where: str) -> bytes: return msgspec.json.encode(v)
def decode_value(d: Any) -> Any: return msgspec.json.decode(d)
def normalize(v: Any, where: str) -> tuple[bytes, Any]: return msgspec.json.encode(v), v
def encode_plain(v: Any, where: str) -> bytes: return msgspec.json.encode(v)
def convert_input(data: bytes, kind: Any, field: str = "input") -> Any:
    return msgspec.json.decode(data) if kind is None else msgspec.json.decode(data, type=kind)
def json_schema(kind: Any) -> dict[str, Any]: return {}
