"""One optimiser step: what is minimised, and how the parameters change."""
