"""The actor kernel and one file an actor."""
