"""Executions over a network, as data.

`pull`        what a worker is handed and reports
`push`        what is sent to an endpoint, and what its answer amounts to
`reports`     commands of an execution as they cross a network
`checks`      what an executor in another process may say in one
`signatures`  of what is sent, and of what endpoints say of themselves
`breaker`     after so many failures nothing is sent for a while
"""
