"""How fast layers are beside what the machine can do: Williams, Waterman and Patterson's roofline.

S. Williams, A. Waterman, D. Patterson: Roofline: an insightful visual performance model for
multicore architectures. Communications of the ACM 52(4), 2009.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Union

from matplotlib.ticker import FuncFormatter

from .. import backends, geometry
from ..bench import machine, report
from ..bench.sides import OURS
from ..bench.suites import BYTES, PASSES
from ._canvas import MARKERS, legend_beside, place

# What the machine's peak is measured in.
ROOF_DTYPE = 'float32'


class Roof(NamedTuple):
    """What a machine can do.

    Attributes
    ----------
    peak : float or None
        Operations per second of all threads, a multiply-add being two; None if it is not known.
    bandwidth : mapping of int to float
        Bytes per second, read and written, of a copy, by the bytes that it moves; may be empty.
    """

    peak: Optional[float]
    bandwidth: Mapping[int, float]


class Measurement(NamedTuple):
    """One point.

    Attributes
    ----------
    name : str
        Points of the same name get the same marker.
    operations : float
        Multiplications and additions of a call.
    bytes : float
        What a call must at least read from and write to memory.
    seconds : float
        Time of a call.
    """

    name: str
    operations: float
    bytes: float
    seconds: float

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.operations / self.bytes


def measure_roof(threads: Optional[int] = None, seconds: float = 0.1) -> Roof:
    """Measure this machine as the benchmark does: multiply-adds in registers, and copies.

    Parameters
    ----------
    threads : int, optional
        As many as the kernels use (`gluon_convpool.get_num_threads`) by default.
    seconds : float
        For the peak, and for each of six sizes of copies.

    Returns
    -------
    Roof
        Its `peak`, that of one thread times the threads, is None without the native library.

    Raises
    ------
    TypeError, ValueError
        If `threads` is no integer or below 1.

    Examples
    --------
    >>> from gluon_convpool import viz
    >>> roof = viz.measure_roof(threads=1, seconds=0.01)
    >>> sorted(roof.bandwidth) == [2**18, 2**20, 2**22, 2**24, 2**26, 2**28]
    True
    """
    count = backends.get_num_threads() if threads is None else threads
    count = geometry.integer('measure_roof', 'threads', count, 1)
    peak = machine.measure_rate('peak', seconds)
    return Roof(peak and peak * count, machine.measure_bandwidth(count, seconds))


def roofline(
    results: Union[Mapping[str, Any], Sequence[Measurement]],
    roof: Optional[Roof] = None,
    which: str = 'forward',
    ax: Any = None,
) -> Any:
    """Draw measured points under the roof of a machine, both axes logarithmic.

    A layer that does `i` operations for each byte can be no faster than the processor's peak, and
    no faster than `i` times the bytes that memory moves in a second; the lower of the two is the
    roof. Two of the slanted lines are drawn: the fastest copy, which stays in a cache, and the
    largest one, which does not. Operations are counted as the direct algorithm does them, so that
    an algorithm with fewer multiplications (Winograd's) may come out above the roof.

    Parameters
    ----------
    results : mapping or sequence of Measurement
        What ``python -m gluon_convpool bench --json FILE`` writes, as `json.load` reads it: a point
        for each convolution and library, bytes being those of data, weights and output. Or points.
    roof : Roof, optional
        By default that of the machine on which `results` were measured; needed for points.
    which : {'forward', 'forward+backward'}
        Which pass of the benchmark's results.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no point to draw, points come without a roof, or `which` is unknown.

    Examples
    --------
    >>> from gluon_convpool import viz
    >>> roof = viz.Roof(peak=100e9, bandwidth={2**18: 50e9, 2**28: 10e9})
    >>> points = [viz.Measurement('loops', 2e9, 1e8, 40.0), viz.Measurement('ours', 2e9, 1e8, 0.04)]
    >>> figure = viz.roofline(points, roof)
    >>> for text in figure.legends[0].get_texts():
    ...     print(text.get_text())
    peak: 100 GFLOP/s
    copy in cache (256 KiB): 50 GB/s
    copy in memory (256 MiB): 10 GB/s
    ours: 50 GFLOP/s
    loops: 0.05 GFLOP/s
    """
    op = 'roofline'
    geometry.choice(op, 'which', which, PASSES)
    if isinstance(results, Mapping):
        points = _points(results, which)
        roof = roof or roof_of(results)
    else:
        points = list(results)
    if roof is None:
        geometry.refuse('no_roof', op=op)
    if not points:
        geometry.refuse('no_points', op=op, which=which)
    figure, axes = place(ax, 8.5, 4.8)
    _draw_roof(axes, roof, points)
    _draw_points(axes, points)
    axes.set_xscale('log')
    axes.set_yscale('log')
    axes.set_xlabel('arithmetic intensity (operations per byte)')
    axes.set_ylabel('speed (GFLOP/s)')
    axes.grid(which='major', color='0.9')
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    legend_beside(axes, ax is None, *axes.get_legend_handles_labels(), fontsize=9)
    return figure


def roof_of(results: Mapping[str, Any]) -> Roof:
    """Return the roof that was measured beside the benchmark's results.

    Examples
    --------
    >>> from gluon_convpool.viz.roofline import roof_of
    >>> roof_of({'peak': {'registers': 1e11}, 'threads': 2, 'bandwidth': {'1024': 5e10}})
    Roof(peak=200000000000.0, bandwidth={1024: 50000000000.0})
    """
    peak = results['peak']['registers']
    return Roof(peak and peak * results['threads'], report.copy_rates(dict(results)))


def _points(results: Mapping[str, Any], which: str) -> List[Measurement]:
    """Return a point for each convolution in float32, as the roof is, and each library."""
    titles = {OURS: 'ours', **report.others(dict(results))}
    points = []
    for name, title in titles.items():
        for record in results['layers']:
            dtype = record.get('dtype', ROOF_DTYPE)
            work = record['passes'].get(which)
            seconds = report.median(record, which, name)
            if dtype == ROOF_DTYPE and work and work['operations'] and seconds:
                # The benchmark's bytes are those of data and output. A backward pass reads the
                # weight, too, and writes its gradient.
                times = 1 if which == PASSES[0] else 2
                moved = work['bytes'] + times * BYTES[dtype] * math.prod(record['weight'])
                points.append(Measurement(title, work['operations'], moved, seconds))
    return points


def _draw_roof(axes: Any, roof: Roof, points: Sequence[Measurement]) -> None:
    slopes: Dict[int, str] = {}
    if roof.bandwidth:
        fastest = max(roof.bandwidth, key=lambda size: roof.bandwidth[size])
        slopes[fastest] = 'cache'
        slopes.setdefault(max(roof.bandwidth), 'memory')
    intensities = [point.intensity for point in points]
    low, high = min(intensities) / 3, max(intensities) * 3
    if roof.peak:
        # so far that the corners are seen
        low, high = (
            min([low, *(roof.peak / roof.bandwidth[size] / 3 for size in slopes)]),
            max([high, *(roof.peak / roof.bandwidth[size] * 3 for size in slopes)]),
        )
        corner = min([high, *(roof.peak / roof.bandwidth[size] for size in slopes)])
        axes.plot(
            [corner if slopes else low, high],
            [roof.peak / 1e9] * 2,
            color='black',
            linewidth=1.5,
            label=f'peak: {roof.peak / 1e9:.3g} GFLOP/s',
        )
    for (size, where), style in zip(slopes.items(), ('--', ':')):
        rate = roof.bandwidth[size]
        end = min(high, roof.peak / rate) if roof.peak else high
        axes.plot(
            [low, end],
            [low * rate / 1e9, end * rate / 1e9],
            color='black',
            linewidth=1.5,
            linestyle=style,
            label=f'copy in {where} ({_size(size)}): {rate / 1e9:.3g} GB/s',
        )
    axes.set_xlim(low, high)


def _draw_points(axes: Any, points: Sequence[Measurement]) -> None:
    groups: Dict[str, List[Measurement]] = {}
    for point in points:
        groups.setdefault(point.name, []).append(point)
    single = all(len(group) == 1 for group in groups.values())
    names = list(groups)
    if single:
        # in the order in which they stand above each other
        names.sort(key=lambda name: -groups[name][0].rate)
    looks = dict(zip(groups, MARKERS * math.ceil(len(groups) / len(MARKERS))))
    for name in names:
        marker, face = looks[name]
        group = groups[name]
        axes.plot(
            [point.intensity for point in group],
            [point.rate / 1e9 for point in group],
            linestyle='none',
            marker=marker,
            markersize=8 if single else 6,
            markerfacecolor=face,
            markeredgecolor='black',
            label=f'{name}: {group[0].rate / 1e9:.3g} GFLOP/s' if single else name,
        )


def _size(count: int) -> str:
    return f'{count / 2**20:g} MiB' if count >= 2**20 else f'{count / 2**10:g} KiB'
