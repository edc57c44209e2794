"""Worlds: say it, walk in it."""
