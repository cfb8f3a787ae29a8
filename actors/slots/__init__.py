"""Whose turn it is.

`pool`          the slots of this process
`waiting_rows`  who waits for one, row by row
`lines`         in which order
`lanes`         limits that runs share
`windows`       so many in a stretch of time
"""
