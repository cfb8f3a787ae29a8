"""Filters and patterns that come from outside, in bounded time.

`compiled`   expressions and paths: compiled once, asked often
`syntax`     their spelling
`operators`  what their operators and functions do
`patterns`   names of events, and what selects them
`regex`      regular expressions
"""
