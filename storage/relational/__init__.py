"""Tables that are read with SQL, because their faces filter by anything.

`tables`           all of them, and how they are made in any SQLite
`handlers`         workflow handlers
`prefect_runs`     flows, flow runs and task runs
`prefect_events`   events, logs and saved searches
`prefect_filters`  conditions of filters as SQL
"""
