"""The stages of a run, from pre-training to evaluation, and their order."""
