"""The domain, pure: no I/O, no event loop, no clock; whatever varies is an argument."""
