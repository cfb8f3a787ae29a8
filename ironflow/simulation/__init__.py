"""The whole runtime in disasters: kernel, journal, engine, timers and schedules on virtual time."""
