"""Processes that ask for work, and the runs that wait for them.

`fleet`     the `Host` of bodies that are executed there
`worker`    the actor of one
`queue`     who gets which run
`affinity`  runs that go to the worker of their actor key
`exchange`  jobs that come with answers
"""
