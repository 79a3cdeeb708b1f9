"""Python programs in processes of their own that need not import torch again.

`run` is subprocess.run, of a fork of a process that has imported what takes long to import, and
nothing of knobs, and parsed what parsed.py says. What Python reads once, at its start, is that
process's: variables such as
PYTHONWARNINGS, each value of which has its own, and the seed of hashes.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path

LONG = ("torch", "hydra.main", "hydra._internal.utils", "rich.table", "rich.progress", "filelock")
LONG += (
    "safetensors.torch",
    "pandas",
    "optuna",
    "plotly.graph_objects",
    "jinja2",
    "sklearn.datasets",
)
AT_START = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "LANG", "LC_")  # variables read once
servers = {}  # those variables -> the process that forks


def run(command, cwd, env=None, timeout=120):
    """Return the CompletedProcess of a command: its output as text, its id as `pid`, no input.

    It leads a process group of its own, which is ended after `timeout` s (TimeoutExpired). Only
    Python with a script, `-m` or `-c` is forked, where forks are safe; all else is started.
    """
    env = dict(os.environ if env is None else env)
    python, *words = command = [str(word) for word in command]
    options = [word for word in words[:1] if word.startswith("-") and word not in ("-m", "-c")]
    if sys.platform != "linux" or python != sys.executable or options:
        with subprocess.Popen(
            command, cwd=cwd, env=env, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                told = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        done = subprocess.CompletedProcess(command, process.returncode, *told)
        done.pid = process.pid
        return done
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        request = {"words": words, "cwd": str(cwd), "env": env, "timeout": timeout}
        server = _server(env)
        server.stdin.write(json.dumps(request | {"out": str(out), "err": str(err)}) + "\n")
        server.stdin.flush()
        pid, code = json.loads(server.stdout.readline())
        told = [path.read_text() for path in (out, err)]
    if code is None:
        raise subprocess.TimeoutExpired(command, timeout, *told)
    done = subprocess.CompletedProcess(command, code, *told)
    done.pid = pid
    return done


def _server(env):
    fixed = {k: v for k, v in env.items() if k.startswith(AT_START) and k != "PYTHONPATH"}
    key = tuple(sorted(fixed.items()))
    if key not in servers:
        others = {k: v for k, v in os.environ.items() if not k.startswith(AT_START)}
        servers[key] = subprocess.Popen(
            [sys.executable, __file__], env=others | fixed, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        atexit.register(servers[key].communicate)  # it ends where its input does
    return servers[key]


# ------------------------------------------------------------------ the process that forks
def serve():
    """Answer each request with an exit code; return, in a fork, the words it is to run."""
    for name in LONG:
        importlib.import_module(name)
    parsed = importlib.import_module("parsed")
    parsed.once(), parsed.ahead()
    sys.path.pop(0)  # tests/
    gc.freeze()  # a fork's collector leaves these alone, or it would copy their memory
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for line in requests:
        request = json.loads(line)
        child = os.fork()
        if not child:
            return become(request, requests, answers)
        answers.write(json.dumps([child, ended(child, request["timeout"])]) + "\n")
        answers.flush()
    sys.exit()


def ended(child, timeout):
    """Wait for a process; return its exit code, or None where it was ended after `timeout` s."""

    def end(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, end)
    signal.alarm(timeout)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except (TimeoutError, KeyboardInterrupt) as why:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None if isinstance(why, TimeoutError) else sys.exit()
    finally:
        signal.alarm(0)


def become(request, *pipes):
    """Be the process that a request asks for, up to its first line of code; return its words."""
    os.setsid()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for pipe in pipes:
        os.close(pipe.fileno())
    write = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["out"], write),
        (2, request["err"], write),
    ):
        os.dup2(os.open(path, flags), number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.modules["numpy"].random.seed()  # else every fork would draw the same
    own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [str(Path(path).absolute()) for path in own if path]
    return request["words"]


def main():
    """Run what a request asks for, as `python` would."""
    first, *others = words = serve()
    if first == "-m":
        sys.argv = others
        sys.path.insert(0, os.getcwd())
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *others[1:]]
        sys.path.insert(0, "")
        sys.modules["__main__"] = program = types.ModuleType("__main__")
        exec(compile(others[0], "<string>", "exec"), vars(program))
    else:
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.realpath(first)))
        runpy.run_path(first, run_name="__main__")


def end(code):
    """End as Python does, but leave the memory of all that was imported to the system."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        main()
    except SystemExit as ended_with:
        code = ended_with.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
        end(code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        end(1)
    end(0)
