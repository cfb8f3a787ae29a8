"""All scenarios: each module of `bench/scenarios` declares its own in `SCENARIOS`."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from harness.scenario import Scenario

FOLDER = Path(__file__).resolve().parents[1] / "scenarios"


@cache
def scenarios() -> dict[str, Scenario]:
    """Every scenario by its name, in the order of the modules. Raises `ValueError` for a name that
    is taken twice.
    """
    found: dict[str, Scenario] = {}
    for path in sorted(FOLDER.glob("*.py")):
        module = importlib.import_module(f"scenarios.{path.stem}")
        for scenario in getattr(module, "SCENARIOS", ()):
            if scenario.name in found:
                raise ValueError(f"two scenarios are called {scenario.name!r}")
            found[scenario.name] = scenario
    return found
