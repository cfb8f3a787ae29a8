"""`ironflow demo`: a durable survey of the standard library, killed half-way on purpose."""
