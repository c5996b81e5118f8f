"""A trained detector: its network, what runs it, what its scores mean, a page of predictions."""
