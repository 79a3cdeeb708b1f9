"""A sweep as people write it with Hydra, Lightning and W&B, after the lightning-hydra-template.

python benchmarks/peers/lightning_sweep.py -m model.lr=1e-3,3e-3 seed=0,1
"""

from pathlib import Path

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

try:
    import torchvision  # noqa: F401  (lightning imports it)
except RuntimeError:  # compiled for another build of torch: declare the operators it describes
    for operator in ("nms", "qnms"):
        boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define(f"torchvision::{operator}", boxes)
import lightning


class Digits(lightning.LightningDataModule):
    """scikit-learn's digits, standardised: 1,078 to train on, 360 to validate, 359 to test.

    With a fold, that fifth of the 1,438 rows outside the test split validates.
    """

    def __init__(self, batch_size: int, num_workers: int, fold: int | None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batches = {"batch_size": batch_size, "num_workers": num_workers}

    def setup(self, stage: str | None = None) -> None:
        """Split, and scale by the training split."""
        x, y = load_digits(return_X_y=True)
        x, _, y, _ = train_test_split(x, y, test_size=359, stratify=y, random_state=0)
        if self.hparams.fold is None:
            train_x, val_x, train_y, val_y = train_test_split(
                x, y, test_size=360, stratify=y, random_state=0
            )
        else:
            folds = StratifiedKFold(5, shuffle=True, random_state=0).split(x, y)
            train, val = [*folds][self.hparams.fold]
            train_x, val_x, train_y, val_y = x[train], x[val], y[train], y[val]
        scaler = StandardScaler().fit(train_x)
        self.train = self._dataset(scaler.transform(train_x), train_y)
        self.val = self._dataset(scaler.transform(val_x), val_y)

    def _dataset(self, x: object, y: object) -> TensorDataset:
        return TensorDataset(torch.tensor(x, dtype=torch.float32), torch.tensor(y))

    def train_dataloader(self) -> DataLoader:
        """Shuffled."""
        return DataLoader(self.train, shuffle=True, **self.batches)

    def val_dataloader(self) -> DataLoader:
        """In order."""
        return DataLoader(self.val, **self.batches)


class Classifier(lightning.LightningModule):
    """An MLP of two hidden layers, trained by Adam."""

    def __init__(self, width: int, dropout: float, lr: float, weight_decay: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.Sequential(
            nn.Linear(64, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, 10),
        )

    def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
        """The loss of a batch."""
        x, y = batch
        loss = F.cross_entropy(self.model(x), y)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], _index: int) -> None:
        """Loss and accuracy of a batch; Lightning averages them."""
        x, y = batch
        outputs = self.model(x)
        self.log("val/loss", F.cross_entropy(outputs, y))
        self.log("val/accuracy", (outputs.argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(
            self.parameters(), lr=self.hparams.lr, weight_decay=self.hparams.weight_decay
        )


@hydra.main(version_base="1.3", config_path="conf", config_name=Path(__file__).stem)
def train(cfg: DictConfig) -> float:
    """One job; its best validation accuracy."""
    lightning.seed_everything(cfg.seed, workers=True)
    data = Digits(**cfg.data)
    model = Classifier(**cfg.model)
    callbacks = [instantiate(callback) for callback in cfg.callbacks.values()]
    logger = instantiate(cfg.logger)
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=logger)
    trainer.fit(model, data)
    if cfg.logger._target_.endswith("WandbLogger"):
        import wandb  # late: a sweep without it does not pay for its import

        wandb.finish()
    return trainer.checkpoint_callback.best_model_score.item()


if __name__ == "__main__":
    train()
