"""What every process needs around its services: clock, log, metrics, HTTP, periodic tasks."""
