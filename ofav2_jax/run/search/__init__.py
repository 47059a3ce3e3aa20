"""A search on a run, or on a supernet from elsewhere: its directory, its rounds, its outcome."""
