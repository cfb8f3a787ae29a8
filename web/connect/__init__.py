"""The Connect services (`POST /ironflow.v1.<Service>/<Method>`): one schema, JSON and protobuf.

`ironflow.proto` describes the messages, `schema` reads it, the codecs turn bodies into plain dicts
and back, `dispatch` and `envelopes` carry them, and each service's methods have a module.
"""
