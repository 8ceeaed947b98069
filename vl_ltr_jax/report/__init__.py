"""Results of a run as tables, TensorBoard and a page."""
