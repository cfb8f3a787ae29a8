"""What is done with a database outside of a server. Everything here blocks.

`files`    facts, backup, vacuum, checks
`restore`  a backup in the place of a database
`ndjson`   a whole database as lines of JSON, and back
`picture`  a database as it stands at one moment
"""
