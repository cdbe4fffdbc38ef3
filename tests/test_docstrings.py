"""Docstrings: every public name has a whole one, and every example prints what it says."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import io
import pkgutil
import re
import sys

import numpy
import public_names
import pytest

import gluon_convpool

# What other programs load: the native library, and the scripts for the benchmark's peers.
ELSEWHERE = re.compile(r'gluon_convpool\.(libconvpool|bench\.workers\..*|__main__)$')

# https://numpydoc.readthedocs.io/en/latest/validation.html: a docstring with a summary in one line
# that ends in a period; parameters and results, in order, with types; an example.
REQUIRED = ['GL07', 'GL08', 'SS01', 'SS03', 'SS06', 'PR01', 'PR02', 'PR03', 'PR04', 'RT01', 'EX01']


def modules():
    found = pkgutil.walk_packages(gluon_convpool.__path__, 'gluon_convpool.')
    names = ['gluon_convpool', *(module.name for module in found)]
    return [importlib.import_module(name) for name in names if not ELSEWHERE.match(name)]


EXAMPLES = [
    example
    for module in modules()
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__)
    if example.examples
]
PUBLIC = sorted(
    {
        name
        for module in public_names.public_modules()
        for name in public_names.described_names(module).values()
    }
)


def named(name):
    module, _, short = name.rpartition('.')
    return getattr(importlib.import_module(module), short)


def has_section(value, title):
    return re.search(rf'^{title}\n-+$', inspect.getdoc(value), re.MULTILINE) is not None


def made_by_the_package(value):
    """Whether the docstring of a class speaks of attributes only: users get such objects."""
    return has_section(value, 'Attributes') and not has_section(value, 'Parameters')


def same_under_every_numpy(value):
    """What the interpreter prints, but for values that NumPy 1 and NumPy 2 show differently."""
    for part in value if isinstance(value, (tuple, list)) else [value]:
        assert not isinstance(part, numpy.generic), f'NumPy 2 prints {part} with its type'
    if value is not None:
        print(repr(value))


@pytest.mark.parametrize('example', EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_example_prints_what_it_says(example, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    # what doctest shows values with
    monkeypatch.setattr(sys, '__displayhook__', same_under_every_numpy)
    report = io.StringIO()
    doctest.DocTestRunner().run(example, out=report.write)
    assert not report.getvalue(), report.getvalue()


@pytest.mark.parametrize('name', PUBLIC)
def test_public_docstring_is_whole(name):
    validate = pytest.importorskip('numpydoc.validate').validate
    get_doc_object = pytest.importorskip('numpydoc.docscrape').get_doc_object
    required = set(REQUIRED)
    if made_by_the_package(named(name)):
        required -= {'PR01', 'EX01'}  # the function that makes them shows them
    # Not by its name, which older versions of numpydoc take for the module that is called the same.
    found = validate(get_doc_object(named(name)))['errors']
    complaints = [f'{code}: {text}' for code, text in found if code in required]
    assert not complaints, '\n'.join(complaints)


@pytest.mark.parametrize('name', PUBLIC)
def test_what_raises_says_so(name):
    value = named(name)
    described = [(value, value)]
    if inspect.isclass(value):
        functions = {k: v for k, v in vars(value).items() if inspect.isfunction(v)}
        described = [(f, f) for k, f in functions.items() if k[0] != '_' and f.__doc__]
        generated = dataclasses.is_dataclass(value)
        if '__init__' in functions and not generated and not made_by_the_package(value):
            described.append((value, functions['__init__']))
    for documented, code in described:
        if re.search(r'^ *(raise|(geometry\.)?refuse)\b', inspect.getsource(code), re.MULTILINE):
            assert has_section(documented, 'Raises'), code.__qualname__


def test_every_module_says_what_it_holds():
    assert not [module.__name__ for module in modules() if not inspect.getdoc(module)]
