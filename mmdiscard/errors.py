"""The errors that are the user's to mend; the tools print them as one line, without a traceback."""


class MMDiscardError(ValueError):
    """A setting, file or package is not what it has to be; the message says what would be right."""


class UnsearchableModelError(MMDiscardError):
    """The backbone of a model cannot be searched; the image in front of the model still can."""


class MissingPackageError(MMDiscardError, ImportError):
    """A package that this configuration needs is absent or too old."""
