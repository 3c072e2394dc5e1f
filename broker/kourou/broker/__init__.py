"""A broker: its log, its rules, its services, its edges."""
