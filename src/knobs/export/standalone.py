"""Answer the rows of a file with the model beside this file, by onnxruntime and without knobs."""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # python -I leaves it out

from knobs.data.preparation import INPUTS, Target  # noqa: E402
from knobs.data.stored import Fields  # noqa: E402
from knobs.errors import CheckpointError, ConfigError  # noqa: E402
from knobs.predict import command  # noqa: E402
from knobs.predict.arguments import arguments  # noqa: E402
from knobs.predict.reading import BATCH, Model, Source  # noqa: E402

TYPES = ("float32", "float64", "int32", "int64")


def load() -> Model:
    """Return the model of this folder, each field of preparation.json checked as it is read.

    Raises:
        CheckpointError: a file that is not there, or not as it was written. ConfigError: no
            onnxruntime.
    """
    try:
        from onnxruntime import InferenceSession
    except ImportError:
        raise ConfigError("model.onnx takes onnxruntime: pip install onnxruntime") from None
    try:
        document = json.loads((HERE / "preparation.json").read_bytes())
        stored = document.pop("arrays")
        arrays = {
            name: np.array(a["values"], TYPES[TYPES.index(a["type"])]) for name, a in stored.items()
        }
        session = InferenceSession(HERE / "model.onnx")
    except Exception as error:  # onnxruntime has its own kinds
        raise CheckpointError(f"{HERE}: cannot be used ({error})") from None
    fields = Fields(document, arrays)
    fields.whole("version", 1, 1)
    inputs = INPUTS[fields.choice("kind", tuple(INPUTS))].read(fields.section("inputs"))
    target, source = Target.read(fields.section("target")), Source.read(fields.section("source"))
    log_rates = fields.choice("outputs", ("logits", "values", "log rates")) == "log rates"
    fields.end()

    def outputs(x: np.ndarray) -> np.ndarray:
        parts = [x[start : start + BATCH] for start in range(0, len(x), BATCH)]
        return np.concatenate([session.run(["outputs"], {"input": part})[0] for part in parts])

    return Model(inputs, target, source, outputs, log_rates)


if __name__ == "__main__":
    sys.exit(command.main(arguments("python predict.py", __doc__).parse_args(), load))
