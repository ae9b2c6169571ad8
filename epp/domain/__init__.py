"""The nouns of the picker and the Protocols between its rooms. Imports nothing of ours."""
