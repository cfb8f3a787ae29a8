"""Events on their way to the functions and runs that want them, and the times of schedules.

`emissions`  emitting one
`router`     who gets it
`waiters`    which runs wait for which
`schedule`   the actor of a function's cron schedule
"""
