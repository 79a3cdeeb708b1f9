"""Networks. Each is a function of the data's shape and the knobs that returns a plain nn.Module
whose last layer is called `head`."""
