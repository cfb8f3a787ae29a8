"""What stands behind the Prefect API.

`doors`        what its endpoints ask
`flow`         the actor of a flow
`flow_run`     the actor of a flow run and its task runs
`history`      what its actor is based on: the commits that make it grow
`task_runs`    task runs in that history
`rows`         rows that filters and lists read
`flow_events`  the events that tell of changes
`sinks`        who else wants to know of a change, in its commit
`events`       the actor that keeps what clients tell
`recorder`     task runs from those events
`logs`         the actor that keeps log lines
`searches`     the actor that keeps saved searches
`live`         what was accepted lately, for who follows it
`feeds`        all of these together
`audit`        what must hold between the stream of a flow run and what else is stored of it
"""
