"""Ctrl-C while a command of `python -m knobs` is imported."""

import os
import signal
import subprocess
import sys

import pytest

# Of Python, before all else: sends Ctrl-C where a module is about to be imported.
CUSTOM = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "knobs.errors":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
"""


def interrupted(folder, *words):
    (folder / "sitecustomize.py").write_text(CUSTOM)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path}
    return subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True)


@pytest.mark.skipif(os.name != "posix", reason="a signal ends a process on POSIX")
@pytest.mark.parametrize("module", ["knobs", "knobs.report", "knobs.compare", "knobs.cache"])
def test_ctrl_c_while_a_command_is_imported_ends_it_in_silence(module, tmp_path):
    """By the signal itself, which a shell gives as 130."""
    done = interrupted(tmp_path, "-m", module, "--help")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_program_that_imports_knobs_hears_ctrl_c_itself(tmp_path):
    code = "try:\n    import knobs.errors\nexcept KeyboardInterrupt:\n    print('heard')"
    assert interrupted(tmp_path, "-c", code).stdout == "heard\n"
