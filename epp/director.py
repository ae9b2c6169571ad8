"""One request from its headers to its end."""
