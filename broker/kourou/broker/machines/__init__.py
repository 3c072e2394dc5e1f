"""Pure state machines of a broker: no I/O, no clock; replayable from the log."""
