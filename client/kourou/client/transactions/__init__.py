"""Transactions: half messages, how they end, and answering when a broker asks how they did."""
