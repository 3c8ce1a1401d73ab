"""Every error and warning that gradreg raises.

One root, :class:`GradregError`; each subclass is also the builtin that a caller would expect.
A message names the call, what it expected, what it got, and what to do next.
"""

__all__ = [
    "BackendImportError",
    "BackendNotFoundError",
    "BatchNormError",
    "BatchNormWarning",
    "DataFileError",
    "DoubleBackwardError",
    "GradregError",
    "InputError",
    "InputTypeError",
    "PluginError",
    "RunError",
    "SpecError",
    "UnsupportedError",
]


class GradregError(Exception):
    """Root of every error raised by gradreg."""


class SpecError(GradregError, ValueError):
    """A regularizer, projection or penalty shape was described wrongly."""


class InputError(GradregError, ValueError):
    """A call got arrays whose shapes or values it cannot use."""


class InputTypeError(GradregError, TypeError):
    """A call got an argument of the wrong type or dtype."""


class BatchNormError(GradregError, ValueError):
    """Batch normalisation in training mode couples the samples, and the policy is ``"error"``."""


class BackendNotFoundError(GradregError, LookupError):
    """No backend with that name is registered."""


class BackendImportError(GradregError, ImportError):
    """The backend is registered, but what it needs cannot be imported."""


class PluginError(GradregError, RuntimeError):
    """A backend plugin is broken, or two claim the same name."""


class RunError(GradregError, RuntimeError):
    """Training runs cannot be carried out: a folder is in use or full, a worker or a scheduler is gone."""


class UnsupportedError(GradregError, NotImplementedError):
    """The backend, or the mode it runs in, cannot do what was asked."""


class DoubleBackwardError(UnsupportedError):
    """An operation of the model has no second derivative, so a penalty on its gradient cannot be trained."""


class DataFileError(GradregError, ValueError):
    """A data file is missing, truncated or malformed."""


class BatchNormWarning(UserWarning):
    """Batch normalisation in training mode couples the samples of a batch."""


def add_note(error: BaseException, note: str) -> None:
    """Do what `BaseException.add_note` does from Python 3.11 on; before that, only pytest prints the notes."""
    error.__notes__ = [*getattr(error, "__notes__", ()), note]


def batch_norm_message(call: str, layer: str, remedy: str) -> str:
    """The message of a :class:`BatchNormError` or :class:`BatchNormWarning` about a layer."""
    return (
        f"{call}: {layer} is in training mode and couples the samples of a batch, so each sample's penalty also counts "
        f"its effect on the others. Use {remedy}, or pass batch_norm='allow' if that is intended."
    )
