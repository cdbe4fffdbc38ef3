"""What the blocks of convolution and pooling share."""

from __future__ import annotations

import inspect
from typing import Any


def fill_in_signature(cls: Any, doc: str, **values: Any) -> None:
    """Give a thin class the signature of the built-in layer under it, and a filled-in docstring.

    The built-in is the base of `cls` after ours; a class without one keeps its own constructor.
    """
    if '__init__' not in vars(cls):
        signature = inspect.signature(cls.__bases__[1].__init__)
        parameters = list(signature.parameters.values())[1:]
        cls._builtin_signature = signature.replace(parameters=parameters)
        cls.__signature__ = cls._builtin_signature
    if not vars(cls).get('__doc__'):
        cls.__doc__ = doc.format(name=cls.__name__, **values)
