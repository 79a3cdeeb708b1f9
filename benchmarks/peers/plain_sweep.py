"""A sweep as people write it with Hydra, a plain PyTorch loop and W&B.

python benchmarks/peers/plain_sweep.py -m lr=1e-3,3e-3 seed=0,1
"""

import json
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


def loaders(batch_size: int, fold: int | None) -> tuple[DataLoader, DataLoader]:
    """scikit-learn's digits, standardised: 1,078 to train on, 360 to validate, 359 to test.

    With a fold, that fifth of the 1,438 rows outside the test split validates.
    """
    x, y = load_digits(return_X_y=True)
    x, _, y, _ = train_test_split(x, y, test_size=359, stratify=y, random_state=0)
    if fold is None:
        train_x, val_x, train_y, val_y = train_test_split(
            x, y, test_size=360, stratify=y, random_state=0
        )
    else:
        train, val = [*StratifiedKFold(5, shuffle=True, random_state=0).split(x, y)][fold]
        train_x, val_x, train_y, val_y = x[train], x[val], y[train], y[val]
    scaler = StandardScaler().fit(train_x)

    def loader(x: object, y: object, shuffle: bool) -> DataLoader:
        x = torch.tensor(scaler.transform(x), dtype=torch.float32)
        return DataLoader(TensorDataset(x, torch.tensor(y)), batch_size, shuffle=shuffle)

    return loader(train_x, train_y, True), loader(val_x, val_y, False)


def mlp(width: int, dropout: float) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, 10),
    )


def train_epoch(
    model: nn.Module, batches: DataLoader, optimizer: torch.optim.Optimizer
) -> dict[str, float]:
    """One pass over the training split; its mean loss."""
    model.train()
    total = 0.0
    for x, y in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(x)
    return {"train/loss": total / len(batches.dataset)}


@torch.no_grad()
def evaluate(model: nn.Module, batches: DataLoader) -> dict[str, float]:
    """Loss and accuracy on the validation split."""
    model.eval()
    loss, correct = 0.0, 0
    for x, y in batches:
        outputs = model(x)
        loss += F.cross_entropy(outputs, y, reduction="sum").item()
        correct += (outputs.argmax(1) == y).sum().item()
    examples = len(batches.dataset)
    return {"val/loss": loss / examples, "val/accuracy": correct / examples}


@hydra.main(version_base="1.3", config_path="conf", config_name=Path(__file__).stem)
def train(cfg: DictConfig) -> float:
    """One job; its best validation accuracy."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    torch.manual_seed(cfg.seed)
    train_batches, val_batches = loaders(cfg.batch_size, cfg.fold)
    model = mlp(cfg.width, cfg.dropout)
    optimizer = torch.optim.Adam(model.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay)
    if cfg.wandb:
        import wandb  # late: a sweep without it does not pay for its import

        wandb.init(project="digits", config=OmegaConf.to_container(cfg), dir=folder)
    best = 0.0
    for epoch in range(cfg.epochs):
        metrics = train_epoch(model, train_batches, optimizer) | evaluate(model, val_batches)
        row = {"epoch": epoch} | metrics
        if cfg.wandb:
            wandb.log(row)
        else:
            with (folder / "metrics.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
        if metrics["val/accuracy"] > best:
            best = metrics["val/accuracy"]
            torch.save({"model": model.state_dict(), "val/accuracy": best}, folder / "best.pt")
    if cfg.wandb:
        wandb.finish()
    return best


if __name__ == "__main__":
    train()
