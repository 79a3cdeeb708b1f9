"""Ensembles of a sweep's runs: their mean prediction, selected on the validation split."""
