"""A whole run: its assembly, the loop over the phases, its directory."""
