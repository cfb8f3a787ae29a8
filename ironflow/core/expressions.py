from __future__ import annotations
from typing import Any
class _D(dict):
    def __getattr__(self, k): return _w(self[k])
def _w(v): return _D(v) if isinstance(v, dict) else v
class Expression:
    def __init__(self, text): self.text = text.replace("&&", " and ").replace("true", "True")
    def matches(self, b: Any) -> bool:
        try: return bool(eval(self.text, {k: _w(v) for k, v in b.items()}))
        except Exception: return False
def compile_expression(text, variables, field="expression"): return Expression(text)
class Path:
    def __init__(self, t): self.t = t
    def get(self, m, default=None):
        for p in self.t.removeprefix("$.").split("."):
            if not isinstance(m, dict) or p not in m: return default
            m = m[p]
        return m
def compile_path(text): return Path(text)
