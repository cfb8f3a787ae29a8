"""The engine: actors, what they stand on, and the doors that faces use. A room for each thing.

`kernel`       actors and what makes them durable; knows nothing of workflows
`engine`       puts all of it together
`environment`  what the actors of one engine share
`stream`       actors whose state is the fold of a stream
`runs`         a run: its actor, its commits, its end
`events`       events on their way to whoever wants them, and schedules
`intake`       before a run: debounce, batch, singleton
`slots`        whose turn it is: slots, lanes, lines
`hosts`        where a body executes: here, with a worker, behind an endpoint
`elsewhere`    what workers and endpoints have in common
`workers`      processes that ask for work
`endpoints`    what the server calls
`directory`    functions, keys, projects and environments
`workflows`    event-driven workflows
`prefect`      what stands behind the Prefect API
`recovery`     what a start brings back
`janitor`      retention
`audit`        what must hold between streams and rows
"""
