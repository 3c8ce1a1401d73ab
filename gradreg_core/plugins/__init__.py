"""Finding and choosing a backend: hooks, discovery, dispatch, lazily loaded packages."""
