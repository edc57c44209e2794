"""Products: each a pipeline, a page and an environment that makes the model better at it."""
