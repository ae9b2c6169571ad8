"""All that speaks to a Kubernetes API: the connection, lists that are followed, and what the objects mean."""
