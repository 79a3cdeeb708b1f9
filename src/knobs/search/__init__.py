"""Which values a search tries next, and which of its runs end early."""
