"""The site builds without a warning, and every page is in its contents."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from documents import DOCS, PAGES


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    arguments = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "doctrees"), str(DOCS)]
    command = [sys.executable, "-m", "sphinx", *arguments, str(tmp_path / "site")]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in PAGES}
    assert pages <= {str(page.relative_to(tmp_path / "site").with_suffix("")) for page in tmp_path.rglob("*.html")}
    text = "".join(page.read_text() for page in (tmp_path / "site").rglob("*.html"))
    assert "<math" in text
    frameworks = (tmp_path / "site" / "api" / "frameworks.html").read_text()
    for host in ("docs.pytorch.org", "docs.jax.dev", "www.tensorflow.org"):  # from the inventories in the checkout
        assert f'href="https://{host}/' in frameworks
    assert '<script src="https:' not in text, "a page loads a script from another host"
