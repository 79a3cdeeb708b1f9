"""Commands of Slurm that run a job's script on this machine: what submitit and knobs ask of it.

As `sbatch`, `srun`, `squeue`, `scancel` and `scontrol`, by the name that it is called by; its state
lies in $FALSE_SLURM. Arrays begin all their tasks at once; MaxArraySize is 3.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ["FALSE_SLURM"])


def sbatch(script):
    text = Path(script).read_text()
    (STATE / "scripts").open("a").write(text)
    number = str(100 + len([*STATE.glob("*.script")]))
    (STATE / f"{number}.script").write_text(text)
    array = re.search(r"--array=0-(\d+)%(\d+)", text)
    for task in range(int(array[1]) + 1) if array else [None]:
        begin(number, task)
    print(f"Submitted batch job {number}")


def begin(number, task):
    name = number if task is None else f"{number}_{task}"
    own = {"SLURM_JOB_ID": number, "SLURM_NTASKS": "1"}
    if task is not None:
        own |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(task)}
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(
            ["bash", str(STATE / f"{number}.script")], env=os.environ | own, stdin=nowhere,
            stdout=nowhere, stderr=nowhere, start_new_session=True,
        )  # fmt: skip
    (STATE / f"{name}.pid").write_text(str(process.pid))


def srun(*words):
    rest = [word for word in words if word != "--unbuffered"]
    places = {}
    while rest[0].startswith("--"):
        places[rest[0]], rest = rest[1], rest[2:]
    marks = {"%A": "SLURM_ARRAY_JOB_ID", "%a": "SLURM_ARRAY_TASK_ID", "%j": "SLURM_JOB_ID"}
    for number, flag in ((1, "--output"), (2, "--error")):
        path = places[flag].replace("%t", "0")
        for mark, name in marks.items():
            path = path.replace(mark, os.environ.get(name, ""))
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.environ.update(
        SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0", SLURM_JOB_NUM_NODES="1"
    )
    os.execvp(rest[0], rest)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def squeue(*_):
    for path in sorted(STATE.glob("*.pid")):
        if alive(path.read_text()):
            print(path.stem)


def scancel(*ids):
    for name in ids:
        os.killpg(int((STATE / f"{name}.pid").read_text()), signal.SIGTERM)


def scontrol(what, *rest):
    if what == "show":
        print("MaxArraySize            = 3")
    else:  # requeue
        number, _, task = rest[0].partition("_")
        begin(number, int(task) if task else None)


if __name__ == "__main__":
    globals()[Path(sys.argv[0]).name](*sys.argv[1:])
