"""The command line: parses, asks the client or starts a server, prints; decides nothing."""
