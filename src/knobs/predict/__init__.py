"""Trained models put to use: raw rows, texts and pictures -> classes, probabilities and values."""
