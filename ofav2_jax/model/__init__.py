"""The supernet: what it is made of, its subnets, and what runs, counts, sorts and converts them."""
