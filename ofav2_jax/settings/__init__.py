"""What defines a run, as plain data whose defaults are the paper's."""
