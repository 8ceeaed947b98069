"""From files on disk to batches: images, class texts, tokens."""
