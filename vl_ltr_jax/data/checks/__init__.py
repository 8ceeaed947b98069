"""Faults that `data.check` reports, one kind to a module."""
