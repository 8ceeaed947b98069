"""Files that are whole or absent, artifacts, workdirs and their lock."""
