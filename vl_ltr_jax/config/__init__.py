"""Keys of a configuration, their bounds and their flags."""
