"""A run's folder -> its own page: what it was, what it got right and wrong, what to do next."""
