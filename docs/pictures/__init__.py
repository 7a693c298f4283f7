"""The pictures of the documentation, drawn from what the tracer finds: see ``docs/draw.py``."""
