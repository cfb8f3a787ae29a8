"""Event-driven workflows over HTTP: the paths and bodies that LlamaIndex's clients know
(`/workflows`, `/handlers`, `/results`, `/events`), and the debugger's page at `/workflows/ui`.
"""
