"""Evaluating subnets."""
