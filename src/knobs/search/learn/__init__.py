"""Makes the table that a prior is learned from; see knobs.search.table."""
