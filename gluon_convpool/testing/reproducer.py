"""Writes the program that raises the error of a failed comparison again.

A layer is described by what made it where that is known: a case of the grid and a class that can be
imported. Any other layer is stored in a file, which the program loads.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import sysconfig
import tempfile
import weakref
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

from .. import backends
from .._mxnet import mx


class _Origin(NamedTuple):
    """What built a layer, and how the layer looked then."""

    case: Any
    source: Any
    representation: str


_origins: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def remember(layer: Any, case: Any, source: Any) -> None:
    """Remember that ``case.build(source)`` made the layer."""
    _origins[layer] = _Origin(case, source, repr(layer))


def _cases() -> Tuple[type, ...]:
    from .cases import ConvolutionCase, PoolingCase  # which import this module

    return ConvolutionCase, PoolingCase


class _CannotStore(Exception):
    """Why a layer cannot be stored."""


class Program:
    """The program, line by line.

    Parameters
    ----------
    call : str
        The last line: what raises the error, with the names that `add` was given.
    """

    def __init__(self, call: str) -> None:
        self._call = call
        self._imports: Set[str] = set()
        self._folders: Set[str] = set()
        self._lines: List[str] = []
        self._cases: Dict[Any, str] = {}
        self._stored: Dict[str, Any] = {}
        self._find(sys.modules['gluon_convpool'])

    def add(self, name: str, value: Any) -> None:
        """Give the program a layer, a case or a tuple of arrays under a name."""
        expression = self._expression(value)
        if expression is None:
            self._stored[name] = value
        else:
            self._lines.append(f'{name} = {expression}')
            if isinstance(value, _cases()):
                self._cases[value] = name

    def add_built(self, name: str, case: Any, source: Any) -> None:
        """Give the program the layer that ``case.build(source)`` makes."""
        self._lines.append(f'{name} = {self._case(case)}.build({self._name(source)})')

    def text(self) -> str:
        """Return the program, or a comment that says why there is none."""
        try:
            stored = self._store()
        except Exception as error:
            return _instead(str(error))
        scope = [f'gluon_convpool.use_backend({backends.current()!r})']
        scope.append(f'testing.array_semantics({"np" if mx.util.is_np_array() else "nd"!r})')
        head = ['import pickle'] if stored else []
        if self._folders:
            head += ['import sys', f'sys.path[:0] = {sorted(self._folders)!r}']
        # gluon_convpool comes before whatever may import mxnet
        head += ['import gluon_convpool', 'from gluon_convpool import testing']
        head += [f'import {name}' for name in sorted(self._imports)]
        body = [*stored, *self._lines, self._call]
        return '\n'.join(
            [
                *head,
                f'gluon_convpool.set_num_threads({backends.get_num_threads()})',
                f'with {", ".join(scope)}:',
                *('    ' + line for line in body),
            ]
        )

    def _expression(self, value: Any) -> Optional[str]:
        """How to write the value, or None if it has to be stored."""
        if isinstance(value, _cases()):
            return self._case(value)
        try:
            origin = _origins.get(value)
        except TypeError:  # no weak references to lists, say
            return None
        if origin is None or origin.representation != repr(value):
            return None
        source = self._name(origin.source)
        return source and f'{self._case(origin.case)}.build({source})'

    def _case(self, case: Any) -> str:
        return self._cases.get(case, f'testing.{case!r}')

    def _name(self, thing: Any) -> Optional[str]:
        """Name a module or a class by an expression that imports find; None if there is none."""
        module = str(getattr(thing, '__module__', None) or getattr(thing, '__name__', ''))
        path = getattr(thing, '__qualname__', '')
        if not _is_there(thing, module, path):
            return None
        self._find(sys.modules[module])
        if module != 'gluon_convpool.nn':  # which the package imports
            self._imports.add(module)
        return f'{module}.{path}' if path else module

    def _find(self, module: Any) -> None:
        """See to it that the program finds the module, wherever it runs."""
        file = getattr(module, '__file__', None)
        if file is None:
            return
        folder = os.path.dirname(os.path.abspath(file))
        levels = module.__name__.count('.') + (os.path.basename(file) == '__init__.py')
        for _ in range(levels):
            folder = os.path.dirname(folder)
        installed = {sysconfig.get_path(name) for name in ('purelib', 'platlib', 'stdlib')}
        if folder not in installed:
            self._folders.add(folder)

    def _check(self, value: Any) -> None:
        """Refuse to store a block whose class the program could not import."""
        if not isinstance(value, mx.gluon.Block):
            return
        cls = type(value)
        if not _is_there(cls, cls.__module__, cls.__qualname__):
            raise _CannotStore(
                f'{cls.__qualname__} of {cls.__module__} cannot be imported; define it at the top'
                ' of a module'
            )
        self._find(sys.modules[cls.__module__])
        for child in value._children.values():
            self._check(child)

    def _store(self) -> List[str]:
        """Write what has to be stored to a file; returns the lines that load it."""
        if not self._stored:
            return []
        for value in self._stored.values():
            self._check(value)
            if isinstance(value, mx.gluon.Block):
                value.hybridize(False)  # a compiled graph cannot be stored
        content = pickle.dumps(tuple(self._stored.values()))
        folder = os.path.join(tempfile.gettempdir(), f'gluon_convpool-failures-{os.getuid()}')
        os.makedirs(folder, mode=0o700, exist_ok=True)
        # the same failure has the same file
        path = os.path.join(folder, hashlib.sha256(content).hexdigest()[:16] + '.pickle')
        with open(path, 'wb') as file:
            file.write(content)
        names = ', '.join(self._stored) + (',' if len(self._stored) == 1 else '')
        return [f"with open({path!r}, 'rb') as file:", f'    {names} = pickle.load(file)']


def _is_there(thing: Any, module: str, path: str) -> bool:
    """Whether another process finds the thing by importing the module."""
    found = sys.modules.get(module)
    if module == '__main__' or found is None:
        return False
    for name in path.split('.') if path else ():
        found = getattr(found, name, None)
    return found is thing


def _instead(reason: str) -> str:
    """Return the program that runs again all that was run, where no smaller one can be written."""
    because = f'# Nothing smaller reproduces it: {reason}.'
    test = os.environ.get('PYTEST_CURRENT_TEST')
    if test:
        node = test.rpartition(' ')[0]
        lines = ['import os, pytest', f'os.chdir({(test_root or os.getcwd())!r})']
        return '\n'.join([because, *lines, f'raise SystemExit(pytest.main([{node!r}]))'])
    script = getattr(sys.modules['__main__'], '__file__', None)
    if script:
        path = os.path.abspath(script)
        return '\n'.join(
            [because, 'import runpy', f"runpy.run_path({path!r}, run_name='__main__')"]
        )
    return because


test_root = ''
"""What the names of pytest's tests are relative to; the plugin sets it."""
