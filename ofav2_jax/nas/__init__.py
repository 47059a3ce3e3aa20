"""Finding good designs with few evaluations: predictor, proposals, NSGA-II."""
