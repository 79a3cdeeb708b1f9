"""The plots of a report, as plotly's JSON."""
