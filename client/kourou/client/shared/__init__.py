"""Shared groups: any member gets any message, and each message is acknowledged, put off or given up by itself."""
