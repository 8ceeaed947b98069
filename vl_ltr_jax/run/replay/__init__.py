"""Repetition of single training steps of a run."""
