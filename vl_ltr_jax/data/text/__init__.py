"""Texts of classes: files, names, prompts, corpus and tokens."""
