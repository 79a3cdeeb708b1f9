"""Answer the rows of a file with a trained model: classes and probabilities, or values."""

import sys

from knobs.predict import command
from knobs.predict.reading import Model


def main(words: list[str] | None = None) -> int:
    """Predict with a run's model; return the exit code."""
    given = command.arguments("python -m knobs.predict", __doc__, run=True).parse_args(words)

    def model() -> Model:
        from knobs.predict.predictor import load  # torch

        return load(given.run).model

    return command.main(given, model)


if __name__ == "__main__":
    sys.exit(main())
