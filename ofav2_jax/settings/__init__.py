"""The settings of a run: plain data whose defaults are the paper's."""
