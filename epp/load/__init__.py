"""The load generator: who arrives when, what they ask, how the answers are timed, and the report."""
