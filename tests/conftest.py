"""Settings that all tests share."""

import os

import hypothesis

# The arrays are tiny: threads inside an operation only get in the way of each other and of tests that run in parallel.
for _variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_variable, "1")

hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("tests")
