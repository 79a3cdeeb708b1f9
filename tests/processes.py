"""Python programs in processes of their own that need not import torch again.

`run` is subprocess.run, of a fork of a process that has imported what takes long to import, and
nothing of knobs, and parsed what parsed.py says. What Python reads once, at its start, is that
process's: variables such as PYTHONWARNINGS, each value of which has its own, and the seed of hashes.
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
    process = Started(words, cwd, env)
    told = process.communicate(timeout)
    done = subprocess.CompletedProcess(command, process.returncode, *told)
    done.pid = process.pid
    return done


def start(command, cwd, env=None):
    """Return a command under way, as `run` would run it: what tests need of subprocess.Popen."""
    env = os.environ if env is None else env
    if sys.platform != "linux" or command[0] != sys.executable:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=cwd, env=env, text=True, **pipes)
    return Started(command[1:], cwd, env)


class Started:
    """A fork that is under way.

    Args:
        words: behind `python`: a script, `-m` or `-c`, and more.
    """

    def __init__(self, words, cwd, env):
        self.words, self.returncode, self._told = words, None, tempfile.TemporaryDirectory()
        self._server = _server(env)
        paths = {name: str(Path(self._told.name, name)) for name in ("out", "err")}
        request = {"words": [*map(str, words)], "cwd": str(cwd), "env": dict(env)} | paths
        self.pid = self._ask(**request)

    def _ask(self, **request):
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def poll(self):
        """Return the exit code, None while it runs."""
        if self.returncode is None:
            self.returncode = self._ask(wait=self.pid, timeout=0)
        return self.returncode

    def communicate(self, timeout=120):
        """Wait for its end; return its output and its errors. It is killed after `timeout` s."""
        if self.returncode is None:
            self.returncode = self._ask(wait=self.pid, timeout=timeout)
        told = [Path(self._told.name, name).read_text() for name in ("out", "err")]
        self._told.cleanup()
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.words, timeout, *told)
        return told

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


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
    """Answer requests: a start by its id, a wait by an exit code; return, in a fork, its words."""
    for name in LONG:
        importlib.import_module(name)
    parsed = importlib.import_module("parsed")
    parsed.once(), parsed.ahead()
    sys.path.pop(0)  # tests/
    gc.freeze()  # a fork's collector leaves these alone, or it would copy their memory
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for line in requests:
        request = json.loads(line)
        if "wait" in request:
            answer = ended(request["wait"], request["timeout"])
        elif not (answer := os.fork()):
            return become(request, requests, answers)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    sys.exit()


def ended(child, timeout):
    """Wait for a process; return its exit code, or None where it was ended after `timeout` s.

    With no `timeout` it goes on, and None says so.
    """
    if not timeout:
        found, status = os.waitpid(child, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if found else None

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
