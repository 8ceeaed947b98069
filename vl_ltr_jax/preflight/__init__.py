"""Programs of a run, compiled for devices that need not be here."""
