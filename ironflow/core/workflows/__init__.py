"""What event-driven workflows add to a run, pure.

`state`   what is under way, and the operations of which turns consist
`fold`    what each operation does to it
`turns`   decisions about turns, events from outside, timers and children
`stream`  what readers are told
`steps`   steps as views show them
`face`    what faces may ask of a workflow
"""
