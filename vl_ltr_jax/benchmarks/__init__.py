"""Comparisons of programs with their alternatives, which print ratios."""
