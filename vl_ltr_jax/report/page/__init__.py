"""A run's report as one page: `gather` what it shows, then `render` it."""
