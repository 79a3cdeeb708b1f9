"""K runs of one shape trained as one computation: counterparts of loop, layers and optimizers."""
