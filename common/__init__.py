"""What both sides of the wire share: the contract, its bounds and its errors. Imports neither side."""

__version__ = "0.1.0"
"""Of the whole distribution; pyproject.toml takes it from here, so that root need not read its metadata."""
