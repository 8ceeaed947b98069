"""Pictures: files, orientation, decoding, transforms and augmentation."""
