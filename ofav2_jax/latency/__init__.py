"""Latency of a supernet's subnets on a device: measured blocks, whose sum is fitted to whole networks."""
