"""Executions that are not in this process: what workers and endpoints have in common.

`host`  the functions, leases and signals of what executes there
`jobs`  what is handed over, and what is reported of it
"""
