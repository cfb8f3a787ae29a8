"""Values as entries hold them: JSON, and the same types back.

`codec`        there and back
`encoding`     values to JSON
`decoding`     and back
`types`        classes whose instances can be stored
`input_types`  input from outside as the type that a function declares
`json_text`    JSON from outside that is stored as text
`payloads`     inline, or in the blob table
"""
