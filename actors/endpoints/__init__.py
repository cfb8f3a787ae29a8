"""Endpoints that the server calls, and the runs that wait for them.

`endpoints`      the `Host` of bodies that are executed there
`call_slots`     how many calls at once
`breakers`       the actor of a circuit breaker
`introspection`  what one says it serves
"""
