"""Batches of training and evaluation: sampling, packing and loading."""
