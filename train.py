"""Train one network, or sweep many: each hyperparameter is a word to type.

python train.py optimizer=adam scheduler=cosine
python train.py -m optimizer=adam,momentum optimizer.lr=1e-3,3e-3,1e-2
python train.py scheduler=one_cycle task=preview
python train.py resume=outputs/runs/DATE/TIME-NAME
"""

import hydra
from omegaconf import DictConfig

from knobs import cli


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def train(cfg: DictConfig) -> float | None:
    """One job: Hydra composed its config; its objective goes back to a sweep."""
    from knobs.training.run import start  # late: it imports torch, which --help does not need

    return start(cfg)


if __name__ == "__main__":
    cli.main(train)
