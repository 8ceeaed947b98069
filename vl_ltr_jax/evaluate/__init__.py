"""Evaluation: scores, accuracies and one split."""
