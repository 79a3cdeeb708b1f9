"""Choose the values that a search tries next, and the runs that end early."""
