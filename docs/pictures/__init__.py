"""The pictures of the documentation, drawn from what the tracer finds or a benchmark measured: see ``docs/draw.py``."""
