"""Another Python, which finds gradreg as this one does, and what it imports."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import gradreg_core

FRAMEWORKS = {"torch", "jax", "jaxlib", "tensorflow", "keras"}
HEAVY = FRAMEWORKS | {"matplotlib", "sklearn"}


def run(*arguments, paths=()):
    """Run it with these arguments, and with folders in front of its path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADREG_")}
    backends = [Path(folder).parent for folder in find_spec("gradreg_torch").submodule_search_locations]
    path = [*paths, Path(gradreg_core.__file__).parents[1], *backends, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
    safely = ["-P"] if sys.version_info >= (3, 11) else []
    command = [sys.executable, *safely, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def imported(code, paths=()):
    """The modules that `code` imports, as -X importtime reports them."""
    done = run("-X", "importtime", "-c", code, paths=paths)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def packages(modules):
    """The top-level packages of modules."""
    return {module.partition(".")[0] for module in modules}
