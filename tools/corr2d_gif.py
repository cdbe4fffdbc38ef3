"""Write docs/images/corr2d.gif, the README's picture of a kernel that slides over a matrix.

python tools/corr2d_gif.py
"""

from __future__ import annotations

from pathlib import Path

from gluon_convpool import viz

PICTURE = Path(__file__).resolve().parents[1] / 'docs' / 'images' / 'corr2d.gif'
X = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
K = [[0, 1], [2, 3]]


def main() -> None:
    viz.explain_corr2d(X, K).save(PICTURE, dpi=120)
    print(f'{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB')


if __name__ == '__main__':
    main()
