"""Devices, processes, signals and memory: where a program runs."""
