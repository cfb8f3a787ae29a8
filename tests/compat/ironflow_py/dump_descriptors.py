"""Prints the SDK's own descriptions of its messages, base64 of a FileDescriptorProto a line."""

import base64

from ironflow._gen import audit_pb, ironflow_pb, pubsub_pb, timetravel_pb, types_pb

for module in (types_pb, ironflow_pb, timetravel_pb, audit_pb, pubsub_pb):
    print(base64.b64encode(module._DESC.proto.to_binary()).decode())
