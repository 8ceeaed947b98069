"""Ours beside the alternative, printing ratios; and what a compiled step will need."""
