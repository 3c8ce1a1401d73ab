"""The checks of a release beyond the tests: both ends of the ranges of versions, the wheel, the supply chain.

    nox -s lowest latest     the kit and tests at the oldest and the newest versions, for all frameworks
    nox -s "lowest(torch)"   for one
    nox -s wheel             every extra of the built wheel in an empty environment
    nox -s audit             known vulnerabilities in the pinned versions
    nox -s licences          writes docs/licences.md from .venv
    nox -s workflows         checks the workflows (schema, and zizmor), the issue forms and the citation

The results of `lowest` and `latest` are written to docs/versions.json, and from there to docs/versions.md. PyTorch's
CPU build is taken with UV_TORCH_BACKEND=cpu in the environment.
"""

import re
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lowest", "latest", "wheel", "audit", "workflows"]

FRAMEWORKS = ("numpy", "torch", "jax", "tensorflow")
OLDEST_PYTHON, NEWEST_PYTHON = "3.10", "3.13"
TESTS = {
    "numpy": [
        "tests/numpy/test_members.py",
        "tests/numpy/test_oracle.py",
        "tests/core/test_schema.py",
        "tests/core/test_structures.py",
        "tests/plugins/test_processes.py",
    ],
    "torch": ["tests/torch/test_oracle.py", "tests/torch/test_first_layer.py"],
    "jax": ["tests/jax/test_oracle.py", "tests/jax/test_trees.py"],
    "tensorflow": ["tests/tensorflow/test_oracle.py", "tests/tensorflow/test_second_order.py"],
}
"""The tests that need no other framework."""
EXTRAS = {
    "none": "numpy",
    "torch": "torch",
    "jax": "jax",
    "tensorflow": "tensorflow",
    "keras": "numpy",
    "lightning": "torch",
    "transformers": "torch",
    "monitor": "numpy",
    "conformance": "numpy",
}
"""The extras for users, each with the backend that it installs."""
LICENCES = """gradreg's own licence is MIT. These are the licences of everything that `make venv` installs, with the
tools for development, as the packages' metadata say. `nox -s licences` writes this page."""
NOT_IN_METADATA = {"namex": "Apache License 2.0", "tomli": "MIT"}
"""One states its licence only in a file; the other is installed only on Python 3.10."""


@nox.session(python=OLDEST_PYTHON)
@nox.parametrize("framework", FRAMEWORKS, ids=FRAMEWORKS)
def lowest(session: nox.Session, framework: str) -> None:
    """The oldest versions of everything that gradreg names, on the oldest Python."""
    _measure(session, framework, "lowest-direct")


@nox.session(python=NEWEST_PYTHON)
@nox.parametrize("framework", FRAMEWORKS, ids=FRAMEWORKS)
def latest(session: nox.Session, framework: str) -> None:
    """The newest versions of everything, on the newest Python."""
    _measure(session, framework, "highest")


def _measure(session: nox.Session, framework: str, resolution: str) -> None:
    """Run the kit's quick profile and tests, and write down what passed."""
    extras = "conformance" if framework == "numpy" else f"conformance,{framework}"
    session.install("--resolution", resolution, f".[{extras}]")
    folder = session.create_tmp()
    report, tests = f"{folder}/report.json", f"{folder}/tests.xml"
    session.run("python", "tests/release/every_module.py")
    kit = ["gradreg", "conformance", framework, "--keep-going", "--report", report]
    session.run(*kit, success_codes=[0, 1])
    session.run("pytest", "-q", f"--junitxml={tests}", *TESTS[framework], success_codes=[0, 1])
    session.run("python", "docs/versions.py", report, "--tests", tests)  # fails if a check or a test failed


@nox.session(python="3.11")
def wheel(session: nox.Session) -> None:
    """The wheel with each extra alone in an empty environment, elsewhere: the quick start and a check of the kit."""
    session.install("build", "hatchling")
    folder = session.create_tmp()
    session.run("python", "-m", "build", "--outdir", folder, ".", silent=True)
    built = session.run("python", "-c", f"import glob; print(*glob.glob('{folder}/*.whl'))", silent=True)
    script = session.invoked_from + "/tests/release/quick_start.py"
    wanted = session.posargs or EXTRAS
    session.chdir(folder)
    for extra in wanted:
        session.run("uv", "venv", "--quiet", "--clear", f"{folder}/{extra}", external=True)
        python = f"{folder}/{extra}/bin/python"
        requirement = str(built).strip() + ("" if extra == "none" else f"[{extra}]")
        session.run("uv", "pip", "install", "--quiet", "--python", python, requirement, external=True)
        session.run(python, "-P", script, EXTRAS[extra], extra, external=True)


@nox.session(python="3.11")
def audit(session: nox.Session) -> None:
    """Known vulnerabilities in constraints.txt."""
    session.install("pip-audit")
    session.run("pip-audit", "--strict", "--no-deps", "--disable-pip", "--requirement", "constraints.txt")


@nox.session(python="3.11")
def licences(session: nox.Session) -> None:
    """Write docs/licences.md: the licence of every pinned package, as its metadata say."""
    session.install("pip-licenses")
    columns = ["--from=mixed", "--format=markdown", "--ignore-packages", "gradreg", "pip", "setuptools", "wheel"]
    table = str(session.run("pip-licenses", "--python=.venv/bin/python", *columns, silent=True))
    table = re.sub("-{4,}", "---", re.sub(r" +\|", " |", table)).replace("|---", "| ---").replace("---|", "--- |")
    heading, line, *rows = table.strip().splitlines()
    cells = map(_cells, rows)
    known = {name: f"| {name} | {version.partition('+')[0]} | {licence} |" for name, version, licence in cells}
    for pin in Path("constraints.txt").read_text().split():
        name, _, version = pin.partition("==")
        if name in NOT_IN_METADATA:
            known[name] = f"| {name} | {version} | {NOT_IN_METADATA[name]} |"
    text = "\n".join([heading, line, *(known[name] for name in sorted(known))])
    Path("docs/licences.md").write_text(f"# Licences of dependencies\n\n{LICENCES}\n\n{text}\n")


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


@nox.session(python="3.11")
def workflows(session: nox.Session) -> None:
    """Check the workflows, the issue forms and the citation against their schemas, and the workflows for dangers."""
    session.install("check-jsonschema", "zizmor")
    for kind, files in (("workflows", ".github/workflows"), ("issue-forms", ".github/ISSUE_TEMPLATE")):
        paths = sorted(map(str, Path(files).glob("*.yml")))
        session.run("check-jsonschema", f"--builtin-schema=vendor.github-{kind}", *paths)
    session.run("check-jsonschema", "--builtin-schema=vendor.citation-file-format", "CITATION.cff")
    session.run("zizmor", "--offline", "--no-progress", ".github/workflows")
