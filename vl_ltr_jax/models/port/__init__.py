"""Weights of CLIP and VL-LTR on disk: reading, conversion and writing."""
