"""What a server knows and keeps.

`catalog`    functions, their versions and history
`keyring`    keys
`registrar`  projects and environments
`unbroken`   changes that outlive their request
"""
