"""Several systems on one data set, side by side."""
