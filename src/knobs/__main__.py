"""`knobs COMMAND`, or `python -m knobs COMMAND`: what there is to do with runs that are there.

train.py trains them. Only what uses a trained model imports torch.
"""

import sys
from collections.abc import Callable, Sequence

import knobs
from knobs.errors import ConfigError, did_you_mean, ended


def _ls(arguments: list[str]) -> int:
    from knobs import listing

    return listing.main(arguments)


def _clean(arguments: list[str]) -> int:
    from knobs import cleaning

    return cleaning.main(arguments)


def _new(arguments: list[str]) -> int:
    from knobs import new

    return new.main(arguments)


def _report(arguments: list[str]) -> int:
    from knobs.report import __main__ as report

    return report.main(arguments)


def _predict(arguments: list[str]) -> int:
    from knobs.predict import __main__ as predict

    return predict.main(arguments)


def _export(arguments: list[str]) -> int:
    from knobs.export import __main__ as export

    return export.main(arguments)


def _ensemble(arguments: list[str]) -> int:
    from knobs.ensemble import __main__ as ensemble

    return ensemble.main(arguments)


def _compare(arguments: list[str]) -> int:
    from knobs.compare import __main__ as compare

    return compare.main(arguments)


def _sync(arguments: list[str]) -> int:
    from knobs.tracking import sync

    sys.argv = ["knobs sync", *arguments]  # it reads them itself
    return sync.main()


def _status(arguments: list[str]) -> int:
    from knobs.workers import command

    return command.status(arguments)


def _cancel(arguments: list[str]) -> int:
    from knobs.workers import command

    return command.cancel(arguments)


COMMANDS: dict[str, tuple[str, Callable[[list[str]], int]]] = {
    "ls": ("a table of all runs below outputs/; knobs ls --help: filters, order, JSON", _ls),
    "clean": ("what could be removed, and how much space that frees", _clean),
    "new": ("a part of your own to begin with: python -m knobs.new model NAME", _new),
    "report": ("the report on a sweep's or a run's folder: python -m knobs.report", _report),
    "predict": ("answers to the rows of a file: python -m knobs.predict RUN INPUT", _predict),
    "export": ("a model for use without knobs: python -m knobs.export RUN --out DIR", _export),
    "ensemble": ("the best mean of a sweep's runs: python -m knobs.ensemble SWEEP", _ensemble),
    "compare": ("is a candidate better? python -m knobs.compare BASE CANDIDATE", _compare),
    "sync": ("upload what W&B does not have: python -m knobs.tracking.sync", _sync),
    "status": ("how far a sweep on workers is: python -m knobs status SWEEP", _status),
    "cancel": ("end the workers of a sweep; they save: python -m knobs cancel SWEEP", _cancel),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    return ended(lambda: _run(name, rest))


def _run(name: str, rest: list[str]) -> int:
    if name in ("-h", "--help"):
        print("knobs COMMAND [...]\n")
        print("\n".join(f"  {word:8} {about}" for word, (about, _) in COMMANDS.items()))
        print("\nRuns and sweeps: python train.py --help")
        return 0
    if name == "--version":
        print(f"knobs {knobs.__version__}")
        return 0
    if name not in COMMANDS:
        near = did_you_mean(name, COMMANDS) or f"; one of {', '.join(COMMANDS)}"
        raise ConfigError(f"knobs {name}: no such command{near}")
    return COMMANDS[name][1](rest)


if __name__ == "__main__":
    sys.exit(main())
