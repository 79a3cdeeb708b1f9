"""Train one network, or sweep many: each hyperparameter is a word to type.

python train.py optimizer=adam scheduler=cosine
python train.py -m optimizer=adam,momentum optimizer.lr=1e-3,3e-3,1e-2
python train.py scheduler=one_cycle task=preview
python train.py resume=outputs/runs/DATE/TIME-NAME
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it in silence, until cli.main hears it

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from knobs import cli  # noqa: E402


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def train(cfg: DictConfig) -> float | None:
    """One job: Hydra composed its config; its objective goes back to a sweep."""
    from knobs.training.run import start  # late: it imports torch, which --help does not need

    return start(cfg)


if __name__ == "__main__":
    cli.main(train)
