"""Run by `nox -s lowest latest`: every module imports, unless a package that it needs is not installed."""

import importlib
import pkgutil
import sys

import gradreg_core

NOT_TO_IMPORT = (".__main__", ".suite.test_conformance")
"""Modules that run something when they are imported, or need pytest around them."""


def main() -> None:
    packages = sorted(name for _, name, _ in pkgutil.iter_modules() if name.startswith("gradreg_"))
    count, missing = 0, set()
    for package in packages:
        path = importlib.import_module(package).__path__
        for module in pkgutil.walk_packages(path, f"{package}.", onerror=lambda name: None):
            if module.name.endswith(NOT_TO_IMPORT):
                continue
            try:
                importlib.import_module(module.name)
                count += 1
            except ModuleNotFoundError as error:
                if str(error.name).startswith("gradreg"):
                    raise
                missing.add(error.name)
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"gradreg {gradreg_core.__version__}, Python {python}: {count} modules import; without {sorted(missing)}")


if __name__ == "__main__":
    main()
