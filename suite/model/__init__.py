"""The model around a mixer, and the width at which two arms are equal."""
