"""A gRPC server engine over HTTP/2 that knows no messages: bytes in, bytes out, whatever the service."""
