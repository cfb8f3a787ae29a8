"""Functions as data, pure.

`definition`    what the engine knows of one
`history`       the facts of its stream, and what they come to
`flow_control`  by which rules its runs begin
`lanes`         what these rules come to for a run
`affinity`      actor keys
`schedules`     cron in a time zone
`intake`        what waits before a run
`secrets`       names that are registered, values that only an execution is handed
"""
