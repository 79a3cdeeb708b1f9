"""Screens as a person sees them: output with its control codes obeyed, and the texts of screens/.

`SCREENS=write pytest tests/training/test_screen.py tests/sweep/test_screen.py` writes these anew;
read the difference before it is committed.
"""

import os
import re
from pathlib import Path

KEPT = Path(__file__).with_name("screens")
CODE = re.compile(r"\x1b\[\??(\d*)[\d;]*([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")
# What changes from run to run, or from machine to machine -> what stands for it.
MASKS = [
    (r"\d+-\d+-\d+/\d+-\d+-\d+", "DATE/TIME"),
    (r"\b[\d.,]+ (s|min|h)\b", "# s"),
    (r"\b\d+\.\d{4}\b", "#.####"),  # a metric
    (r"[\d,]+ samples/s", "# samples/s"),
    (r"memory [\d,]+ MiB", "memory # MiB"),
    (r"in \d+ stacks?", "in # stacks"),
]


def seen(text: str) -> list[str]:
    """The lines that are left on a terminal that got a text."""
    lines, row, column = [""], 0, 0
    for number, code, turn, words in CODE.findall(text):
        if words:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + words + line[column + len(words) :]
            column += len(words)
        elif turn == "\r":
            column = 0
        elif turn == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif code == "A":
            row = max(0, row - int(number or 1))
        elif code == "K":
            lines[row] = ""
    return [line.rstrip() for line in lines]


def masked(lines: list[str]) -> str:
    text = "\n".join(lines).strip("\n") + "\n"
    for pattern, stands in MASKS:
        text = re.sub(pattern, stands, text)
    return text


def kept(name: str, lines: list[str]) -> str:
    """The text of screens/NAME.txt, which lines should be but for numbers that vary."""
    path = KEPT / f"{name}.txt"
    if os.environ.get("SCREENS") == "write":
        path.write_text(masked(lines))
    return path.read_text()
