"""Matplotlib's player for animations, made to stand alone and to be small."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import re
from typing import Any

from PIL import Image

# Matplotlib's buttons show icons of a font that comes over the network.
GLYPHS = {
    'fa-minus': '\u2212',
    'fa-fast-backward': '|\u25c2\u25c2',
    'fa-step-backward': '|\u25c2',
    'fa-play fa-flip-horizontal': '\u25c2',
    'fa-pause': '||',
    'fa-play': '\u25b8',
    'fa-step-forward': '\u25b8|',
    'fa-fast-forward': '\u25b8\u25b8|',
    'fa-plus': '+',
}
COLOURS = 64
_players = itertools.count()


def player(animation: Any) -> str:
    """Return HTML that plays a Matplotlib animation, over and over, with buttons to stop it.

    It needs nothing from the network. Where scripts are not allowed, it shows the first frame.
    """
    html = animation.to_jshtml(default_mode='loop')
    html = re.sub(r'<link rel="stylesheet"[^>]*>', '', html)
    html = re.sub(r'<i class="fa ([a-z -]+)"></i>', lambda icon: GLYPHS[icon.group(1)], html)
    html = re.sub(r'(data:image/png;base64,)([A-Za-z0-9+/=\\\s]+)', _with_few_colours, html)
    html = re.sub(r'(anim\w+) = new Animation\([^)]*\);', r'\g<0> \1.play_animation();', html)
    first = re.search(r'data:image/png;base64,[A-Za-z0-9+/=]+', html)
    assert first is not None
    html = _with_a_lasting_name(html)
    return html.replace('<img ', f'<img alt="animation" src="{first.group()}" ', 1)


def _with_a_lasting_name(html: str) -> str:
    """Matplotlib's random name is replaced: a notebook that is run anew stays the same file."""
    name = re.search(r'anim([0-9a-f]{32})', html)
    assert name is not None
    rest = html.replace(name.group(1), '') + str(next(_players))
    return html.replace(name.group(1), hashlib.sha256(rest.encode()).hexdigest()[:32])


def _with_few_colours(match: Any) -> str:
    """The picture with a palette, which takes a third of the room; drawings have few colours."""
    # Within JavaScript, the lines of a string end in backslashes.
    png = base64.b64decode(re.sub(r'[\\\s]', '', match.group(2)))
    written = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert('RGB').quantize(COLOURS)
    picture.save(written, 'PNG', optimize=True)
    return match.group(1) + base64.b64encode(written.getvalue()).decode()
