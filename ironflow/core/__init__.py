"""The domain, pure: no I/O, no event loop, no clock; whatever varies is an argument.

`runs`          a run: its entries and their fold, what it can be told and what it answers
`workflows`     what event-driven workflows add to that
`functions`     functions as data: definitions, flow control, schedules, intakes
`values`        values as entries hold them
`expressions`   filters, patterns and regular expressions that come from outside
`access`        who may do what with which thing
`remote`        executions over a network, as data
`prefect`       the domain of the Prefect API
`errors`        every error that is raised on purpose
`messages`      what actors can be told
`clock`         time and ids as arguments
`durations`     durations as people write and read them
`blockages`     what has held up the event loop
`crash_points`  places at which a test may have the process die
`terminal`      text from elsewhere on a terminal
"""
