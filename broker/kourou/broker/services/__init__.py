"""Use cases of a broker, one a file: asyncio above the store and the machines, below the edge."""
