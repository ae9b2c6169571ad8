"""A model server that behaves like vLLM to a router, without a GPU: over HTTP and in virtual time."""
