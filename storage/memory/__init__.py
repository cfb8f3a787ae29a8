"""The store in memory: for tests, simulation and runs that need no durability.

`store`   journal and reader
`tables`  the committed state, and retention over it
"""
