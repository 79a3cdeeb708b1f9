"""Records -> an answer: tables, importance, verdicts, plots, pages. Imports no torch."""
