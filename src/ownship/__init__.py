"""Ownship builds, teaches, ranks and ships your own flagship language model."""

__version__ = "0.1.0"
