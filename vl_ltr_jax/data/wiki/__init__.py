"""Texts of classes from a MediaWiki, for `data.fetch_text`."""
