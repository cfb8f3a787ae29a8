"""A run.

`run`        its actor
`batch`      its commits
`rows`       it as lists read it
`record`     it as whoever executes it elsewhere is handed it
`admission`  before it exists
`effects`    reports of a body in this process
`endings`    who waits for its end
"""
