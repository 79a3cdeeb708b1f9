"""An example of parts of one's own."""
