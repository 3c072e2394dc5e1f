"""The log on disk: segments, indexes, snapshots, recovery. The only package that touches files."""
