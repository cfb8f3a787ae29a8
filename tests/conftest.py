"""What every test shares: hypothesis measures no time, because the machine may be busy, and in CI
it draws the same examples each time, so that a change is judged by what it changed. Elsewhere it
looks for new ones; what it finds becomes an `@example`.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

CALM = [HealthCheck.too_slow]
settings.register_profile("search", deadline=None, suppress_health_check=CALM)
settings.register_profile(
    "ci", deadline=None, suppress_health_check=CALM, derandomize=True, database=None
)
settings.load_profile("ci" if os.environ.get("CI") else "search")
