"""Envoy's external-processing protocol and nothing else."""
