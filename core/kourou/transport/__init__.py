"""Sockets around ``core.wire``: the listening end and the dialling end of the data plane. No grpc."""
