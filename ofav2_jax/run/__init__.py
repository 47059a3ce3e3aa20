"""A whole run: assembly, the loop over the phases, what is saved."""
