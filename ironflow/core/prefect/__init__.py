"""The Prefect API's own ideas, pure: its states and rules, its filters, its events.

`states`         states as they stand on the wire and in the journal
`runs`           flow runs and task runs: records, entries, their fold
`commands`       what they can be told
`rules`          whether a run may take a proposed state
`flow_rules`     the rules of flow runs
`task_rules`     the rules of task runs
`timers`         when a flow run must be brought on
`explain`        why it stands where it stands
`lists`          how it stands in the lists of all runs
`bodies`         responses, encoded once when a run changes
`events`         what happened to which resource
`event_filters`  filters of events
`logs`           lines that runs log
`packets`        messages as they go over a websocket
`filters`        filters as they come, into conditions or faults
`conditions`     what a filter comes to
`resources`      which fields and operators a filter may name
`texts`          text search
`coercion`       values said in other words than usual
`scalars`        single values of a client's JSON
`schemas`        values held against JSON Schema
`names`          names for runs that were given none
`faults`         what is wrong with a request, all at once
"""
