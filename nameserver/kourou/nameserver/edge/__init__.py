"""Where a nameserver meets brokers (gRPC) and clients (data plane)."""
