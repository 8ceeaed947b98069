"""One run: a configuration with its inputs, devices and workdir."""
