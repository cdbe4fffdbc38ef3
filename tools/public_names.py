"""The names that the package promises.

The API reference shows them, and the tests ask each of them for a whole docstring. A new module
that is no inside of the package is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
import types
from typing import Any, Dict, List

import gluon_convpool

# What serves the layers or the command line, and is called by nobody else. (Python takes the native
# library for a module, by its name.)
INSIDES = ('backends', 'bench', 'cli', 'demo', 'libconvpool')


def public_modules() -> List[str]:
    """The package and its public modules, by their import names."""
    found = [gluon_convpool.__name__]
    for module in pkgutil.iter_modules(gluon_convpool.__path__):
        if not module.name.startswith('_') and module.name not in INSIDES:
            found.append(f'{gluon_convpool.__name__}.{module.name}')
    return found


def public_names(module_name: str) -> Dict[str, Any]:
    """The public functions and classes of a module, in alphabetical order.

    They are those that ``__all__`` announces, or else those that it defines, itself or in modules
    under it; what it only imports belongs to others.
    """
    module = importlib.import_module(module_name)
    announced = getattr(module, '__all__', None)
    found = {}
    for name in sorted(vars(module) if announced is None else announced, key=str.lower):
        value = getattr(module, name)
        if name.startswith('_') or not isinstance(value, (type, types.FunctionType)):
            continue
        own = value.__module__ == module_name or value.__module__.startswith(module_name + '.')
        if own or announced is not None:
            found[name] = value
    return found


def described_names(module_name: str) -> Dict[str, str]:
    """For each public name of a module, the full name under which the reference describes it.

    It is another one for what the package itself offers from a public module.
    """
    others = [] if module_name != gluon_convpool.__name__ else public_modules()[1:]
    elsewhere = {
        id(value): f'{other}.{name}'
        for other in others
        for name, value in public_names(other).items()
    }
    return {
        name: elsewhere.get(id(value), f'{module_name}.{name}')
        for name, value in public_names(module_name).items()
    }
