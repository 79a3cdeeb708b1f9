"""Networks."""

from collections.abc import Callable

from torch import Tensor, nn


class Residual(nn.Module):
    """(N, inputs) -> (N, outputs): blocks that add to what they are given.

    knobs gives `inputs`, `outputs`, `activation` and `dropout`, since they are named here.
    """

    def __init__(
        self, inputs: int, outputs: int, activation: Callable[[], nn.Module], dropout: float,
        width: int = 32, depth: int = 2,
    ):  # fmt: skip
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), activation(), nn.Dropout(dropout)
            )
            for _ in range(depth)
        )
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Add each block's outputs to its inputs."""
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)
