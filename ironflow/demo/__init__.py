"""`ironflow demo`: a durable survey of Python's own standard library, killed half-way on purpose."""
