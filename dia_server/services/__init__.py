"""Use cases, free of HTTP."""
