"""Long-tailed data sets: lists, folders, iNaturalist and prepared records."""
