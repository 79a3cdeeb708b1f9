"""Advice: rules of thumb about a config. Reads configs and shapes; changes nothing."""
