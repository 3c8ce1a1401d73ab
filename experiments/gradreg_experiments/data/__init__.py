"""The data of the experiments: IDX files, their subsets, and scikit-learn's digits."""
