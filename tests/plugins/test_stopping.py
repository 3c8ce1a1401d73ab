"""A command that is stopped: at once, in the middle of compiled code too, and with the words that go on with it."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from gradreg_core.cli.stopping import Terminated, terminable

WITHIN_COMPILED_CODE = """
import sys
import numpy as np
from gradreg_core.cli.stopping import terminable
matrix = np.random.default_rng(0).normal(size=(3000, 3000))
with terminable("To continue: again", seconds=0.3):
    print("ready", flush=True)
    np.linalg.svd(matrix)  # half a minute
"""
WITH_A_CHILD = """
import os, signal, time
from gradreg_core.cli.stopping import terminable
with terminable(seconds=0.2):
    child = os.fork()
    if not child:
        time.sleep(60)
    print("ready", flush=True)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    ended = os.waitpid(child, 0)[1]
    time.sleep(0.6)
    print(os.waitstatus_to_exitcode(ended), flush=True)
"""
WITH_A_HANDLER_OF_ITS_OWN = """
import signal, time
from gradreg_core.cli.stopping import terminable
with terminable(seconds=0.1):
    signal.signal(signal.SIGTERM, lambda number, frame: print("saved", flush=True))
    print("ready", flush=True)
    time.sleep(1.5)
print("done", flush=True)
"""


USUAL_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""Python's handler of Ctrl-C, which a process does not have whose shell started these tests in the background."""


def started(code):
    """A process that runs the code, once it has printed a line."""
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", USUAL_INTERRUPTS + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=path,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "ending"), [(signal.SIGTERM, 143, "stopped by SIGTERM"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_a_command_in_compiled_code(number, status, ending):
    process = started(WITHIN_COMPILED_CODE)
    time.sleep(0.3)  # it is in the call by now
    process.send_signal(number)
    begin = time.monotonic()
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - begin < 10
    assert (process.returncode, stderr) == (status, f"error: the command was {ending}. To continue: again\n")


def test_a_signal_to_a_forked_process_is_its_own_affair():
    """A loader's workers are stopped with SIGTERM: the command continues."""
    stdout, stderr = started(WITH_A_CHILD).communicate(timeout=60)
    assert (stdout, stderr) == (f"{-signal.SIGTERM}\n", "")


def test_a_training_that_handles_a_signal_itself_is_left_alone():
    process = started(WITH_A_HANDLER_OF_ITS_OWN)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60) == ("saved\ndone\n", "")
    assert process.returncode == 0


def test_handlers_are_as_before_afterwards(request):
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    with terminable(), terminable():
        pass
    with pytest.raises(Terminated), terminable():
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminable():
        signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1
