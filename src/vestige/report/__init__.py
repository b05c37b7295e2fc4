"""Reports: a result as a page."""
