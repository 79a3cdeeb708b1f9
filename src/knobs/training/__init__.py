"""One run: seed, build, fit, record."""
