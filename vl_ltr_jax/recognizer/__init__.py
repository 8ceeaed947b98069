"""A trained model in use: predictions, explanations, added classes, files."""
