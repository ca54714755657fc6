"""A comparison planned for devices that are not there: its programs compiled ahead of time, and its cost in bounds."""
