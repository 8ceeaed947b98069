"""The embedded data set: drawn shapes with articles."""
