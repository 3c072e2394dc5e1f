"""The suites run in environments of their own (see run.py), never inside the repository's pytest run."""

collect_ignore = ["python", "node", "java", "go", "http2", "soak"]
