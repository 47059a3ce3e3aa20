"""Testing subnets."""
