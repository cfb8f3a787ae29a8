"""Who may do what with which thing, pure.

`keys`       keys, and what whoever has one may do
`actions`    what can be done, and which of it a request asks for
`policies`   what the roles of a key come to
`directory`  the organization, projects, environments and roles
`irn`        names of things
"""
