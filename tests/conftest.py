"""What every test shares: hypothesis measures no time, because the machine may be busy."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("ironflow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ironflow")
