"""Checkpoints by Orbax: saving, restoring, checksums and retries."""
