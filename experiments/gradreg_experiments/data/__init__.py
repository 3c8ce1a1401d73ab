"""The data of the experiments: IDX files, parts of them, and scikit-learn's digits."""
