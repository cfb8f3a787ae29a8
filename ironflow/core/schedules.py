from __future__ import annotations
from datetime import datetime, UTC
from croniter import croniter
class CronSchedule:
    def __init__(self, expression: str, timezone: str = "UTC") -> None: self.e = expression
    def next_after(self, at: int) -> int:
        return int(croniter(self.e, datetime.fromtimestamp(at / 1e6, UTC)).get_next(float) * 1e6)
    def between(self, start: int, end: int, limit: int) -> list[int]:
        out = []; t = start - 1
        while len(out) < limit:
            t = self.next_after(t)
            if t > end: break
            out.append(t)
        return out
