"""Systems that split a network into branches or experts."""
