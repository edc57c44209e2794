"""What people use: each product is a pipeline, a page and an environment."""
