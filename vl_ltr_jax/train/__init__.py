"""Training: steps, state, optimizer and the one loop."""
