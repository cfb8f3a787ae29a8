"""Actors, and what makes them durable. Knows nothing of workflows.

`actor`         actors, typed ask and tell
`cell`          one live actor: mailbox, turns, crashes
`system`        names, turns, services in order
`timers`        durable timers
`outbox`        durable messages
`virtual_time`  a loop whose time jumps
"""
