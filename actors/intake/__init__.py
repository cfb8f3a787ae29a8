"""What stands before a run: an actor for each value of a policy's key.

`actor`      what these actors share
`pending`    debounce and batch
`singleton`  one run at a time
`doors`      requests for runs that wait here, and what an operator may say of them
`audit`      what must hold between the stream of an intake and what else is stored of it
"""
