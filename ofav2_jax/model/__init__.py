"""The supernet: its parts and its subnets, and how they are run, counted, sorted and converted."""
