"""Answer the rows of a file with a trained model: classes and probabilities, or values."""

import sys
from typing import Any

from knobs.errors import ended
from knobs.predict.arguments import arguments


def main(words: list[str] | None = None) -> int:
    """Predict with a run's model; return the exit code."""
    given = arguments("python -m knobs.predict", __doc__, run=True).parse_args(words)

    def model() -> Any:
        from knobs.predict.predictor import load

        return load(given.run).model

    def answer() -> int:
        from knobs.predict import command  # pandas

        return command.main(given, model)

    return ended(answer)


if __name__ == "__main__":
    sys.exit(main())
