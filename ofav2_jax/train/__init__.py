"""Training: the objective of a step, the optimiser's update, the steps of an epoch."""
