"""Bodies of each API -> Request; prompts -> block hashes; usage and names out of answers. No I/O."""
