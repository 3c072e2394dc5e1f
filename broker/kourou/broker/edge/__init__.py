"""Where a broker meets its peers: data plane, registration with nameservers. Thin; decisions live below."""
