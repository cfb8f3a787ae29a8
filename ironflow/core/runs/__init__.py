"""A run, pure.

`state`        what its entries come to
`entries`      its facts
`fold`         how each of them changes it
`commands`     what it can be told
`decisions`    what it answers
`reports`      what it answers to whoever executes its body
`conclusions`  how it ends
`waking`       how it goes on
`effects`      what decisions are made of, and what they ask for
`execution`    the contract with whatever executes a body
`retry`        when a failed attempt is made again
`explain`      why it stands where it stands
"""
