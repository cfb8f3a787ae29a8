"""The HTTP faces: routes decode, ask or read, and encode."""
