"""May a request go now? Saturation of the pool, and the gate that sheds by it."""
