"""Pure facts and rules shared by every part: no I/O, no clock, no third-party imports."""
