"""Event-driven workflows, as their face needs them.

`doors`     start, send an event, follow, list, cancel, purge
`handlers`  names that callers choose, each with its newest run
`streams`   readers of what runs stream
"""
