"""Settings of Sphinx: ``make docs`` builds the pages of this folder and the API reference."""

from __future__ import annotations

import pathlib
import re
import sys
from inspect import isclass

import gluon_convpool

sys.path.append(str(pathlib.Path(gluon_convpool.__file__).parents[1] / 'tools'))
import public_names

project = 'gluon_convpool'
release = gluon_convpool.__version__
copyright = 'the authors of gluon_convpool; Apache-2.0'

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.autosummary',
    'sphinx.ext.napoleon',
]
exclude_patterns = ['_build']
templates_path = ['_templates']

# The docstrings say the types, with shapes.
autodoc_typehints = 'none'
autodoc_use_type_comments = False
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_google_docstring = False
# Docstrings put names in single backticks; where the reference has them, they become links.
default_role = 'py:obj'
# Blocks of pages that name no language are commands and trees of files.
highlight_language = 'text'

MODULES = public_names.public_modules()
# What the template of a module's page shows, by the module's name.
autosummary_context = {
    'rows': {module: list(public_names.described_names(module).values()) for module in MODULES},
    'submodules': {MODULES[0]: MODULES[1:]},
    # Classes by their names; the fields of named tuples stand in their docstrings.
    'classes_of': {
        module: {
            name: ', '.join(getattr(value, '_fields', ()))
            for name, value in public_names.public_names(module).items()
            if isclass(value)
        }
        for module in MODULES
    },
}

myst_heading_anchors = 3

html_theme = 'furo'
html_title = f'gluon_convpool {release}'
html_show_sphinx = False
html_static_path = ['_static']
html_css_files = ['width.css']


def setup(app):
    """Turn links to files outside of this folder into words: the built pages don't hold them."""

    def read(_, name, source):
        source[0] = re.sub(r'(?<!!)\[([^\[\]]*)\]\(\.\./[^()]*\)', r'\1', source[0])

    app.connect('source-read', read)
