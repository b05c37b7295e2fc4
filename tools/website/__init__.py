"""The documentation as a site: the pages that exist, and pages made of docstrings, tables and records. `make docs` builds it."""
