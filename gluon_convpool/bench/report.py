"""Tables and the picture, from results as `command` writes them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from .machine import ALGORITHMS, bandwidth_for
from .measure import no_pass
from .networks import FUSED, SWAPPED
from .sides import BUILTIN, OURS, PREPACKED
from .suites import BYTES, PASSES

Results = Dict[str, Any]
NOTHING = '-'


# --------------------------------------------------------------------------- numbers


def median(record: Dict[str, Any], which: str, side: str) -> Optional[float]:
    """Return the seconds of a call, or None where there is no believable time."""
    entry = record['passes'].get(which, {}).get('sides', {}).get(side, {})
    return entry.get('median')


def ratio(record: Dict[str, Any], which: str, side: str) -> Optional[float]:
    """Return the time of another side over ours: above 1, ours is faster."""
    theirs, ours = median(record, which, side), median(record, which, OURS)
    return theirs / ours if theirs and ours else None


def rate(record: Dict[str, Any], which: str) -> Optional[float]:
    """Return our operations per second, or bytes per second for pooling."""
    ours = median(record, which, OURS)
    work = record['passes'][which]
    return (work['operations'] or work['bytes']) / ours if ours else None


def share(results: Results, record: Dict[str, Any], which: str) -> Optional[float]:
    """Return `rate` over what the machine can do: peak arithmetic, or a copy for pooling."""
    achieved = rate(record, which)
    work = record['passes'][which]
    if work['operations']:
        peak = results['peak']['registers']
        # as many numbers as fit into a vector
        numbers = BYTES['float32'] / BYTES[record.get('dtype', 'float32')]
        limit = peak * results['threads'] * numbers if peak else None
    else:
        limit = bandwidth_for(work['bytes'], copy_rates(results))
    return achieved / limit if achieved and limit else None


def copy_rates(results: Results) -> Dict[int, float]:
    """Return the measured copies; JSON knows no keys but strings."""
    return {int(size): value for size, value in results['bandwidth'].items()}


def geometric_mean(values: Sequence[float]) -> Optional[float]:
    """Return the mean that suits ratios: 2 and 1/2 make 1."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def others(results: Results) -> Dict[str, str]:
    """Return the titles of those that ours is compared with, by name."""
    measured = {name: peer['title'] for name, peer in results['peers'].items() if 'version' in peer}
    return {BUILTIN: 'built-in', **measured}


# --------------------------------------------------------------------------- tables


def _number(value: Optional[float], form: str) -> str:
    return NOTHING if value is None else form.format(value)


def _spread(record: Dict[str, Any], which: str) -> str:
    """Half the distance of the quartiles, in percent of the median."""
    entry = record['passes'][which]['sides'][OURS]
    if 'median' not in entry:
        return NOTHING
    low, high = entry['quartiles']
    return f'{50 * (high - low) / entry["median"]:.0f} %'


def _rate_text(record: Dict[str, Any], which: str) -> str:
    unit = 'GFLOP/s' if record['passes'][which]['operations'] else 'GB/s'
    achieved = rate(record, which)
    return NOTHING if achieved is None else f'{achieved / 1e9:.3g} {unit}'


def _milliseconds(seconds: Optional[float]) -> str:
    return NOTHING if seconds is None else f'{1e3 * seconds:.4g}'


def comparison(results: Results, which: str) -> List[List[str]]:
    """Return the table of one pass, head first."""
    titles = others(results)
    packed = any(median(record, which, PREPACKED) for record in results['layers'])
    head = ['suite', 'layer', 'batch', 'ours, ms', '±', 'rate', 'of limit', 'algorithm']
    head += ['packed, ms'] * packed
    rows = [head + list(titles.values())]
    for record in results['layers']:
        if which not in record['passes']:
            continue
        rows.append(
            [
                record['suite'],
                record['name'],
                str(record['batch']),
                _milliseconds(median(record, which, OURS)),
                _spread(record, which),
                _rate_text(record, which),
                _number(share(results, record, which), '{:.0%}'),
                record['algorithms']['forward'] or NOTHING,
                *([_milliseconds(median(record, which, PREPACKED))] * packed),
                *(_number(ratio(record, which, name), '{:.2f}') for name in titles),
            ]
        )
    means = []
    for name in titles:
        ratios = [ratio(one, which, name) for one in results['layers']]
        means.append(_number(geometric_mean([r for r in ratios if r]), '{:.2f}'))
    rows.append(['', 'geometric mean', *[''] * (len(head) - 2), *means])
    return rows


def algorithms(results: Results, which: str) -> List[List[str]]:
    """Return the table of what each algorithm would have cost; only the head if none was forced."""
    names = ALGORITHMS[1:]
    rows = [['suite', 'layer', 'batch', 'chosen', 'ours, ms', *(f'{name}, ms' for name in names)]]
    for record in results['layers']:
        sides = record['passes'].get(which, {}).get('sides', {})
        if not any(f'{OURS}:{name}' in sides for name in names):
            continue
        rows.append(
            [
                record['suite'],
                record['name'],
                str(record['batch']),
                record['algorithms']['forward'] or NOTHING,
                _milliseconds(median(record, which, OURS)),
                *(_milliseconds(median(record, which, f'{OURS}:{name}')) for name in names),
            ]
        )
    return rows


def network_table(results: Results, which: str) -> List[List[str]]:
    """Return the table of whole networks in inference or in training, head first.

    Times are divided by that of our fastest: the optimized network, or the swapped one in training.
    """
    ours = {OURS: 'optimized', SWAPPED: 'swapped'}
    titles = {BUILTIN: 'built-in', FUSED: 'fused', **others(results), **ours}
    records = [one for one in results['networks'] if one['which'] == which]
    shown = [name for name in titles if any(name in one['sides'] for one in records)]
    best = OURS if OURS in shown else SWAPPED
    shown.remove(best)
    columns = [titles[name] for name in shown]
    rows = [['network', 'image', 'batch', f'{titles[best]}, ms', *columns, 'difference']]
    for record in records:
        times = {name: one.get('median') for name, one in record['sides'].items()}
        mine = times[best]
        ratios = [
            times[name] / mine if mine and times.get(name) else None  # type: ignore[operator]
            for name in shown
        ]
        size = record['size']
        rows.append(
            [
                record['network'],
                f'{size}x{size}',
                str(record['batch']),
                _milliseconds(mine),
                *(_number(one, '{:.2f}') for one in ratios),
                _number(record['sides'][best].get('difference'), '{:.1e}'),
            ]
        )
    return rows


def _render(rows: List[List[str]], markdown: bool) -> str:
    from tabulate import tabulate

    left = {'suite', 'layer', 'algorithm', 'chosen', 'network'}
    return tabulate(
        rows[1:],
        headers=rows[0],
        tablefmt='github' if markdown else 'simple',
        colalign=['left' if title in left else 'right' for title in rows[0]],
        disable_numparse=True,
    )


def heading(results: Results) -> str:
    """Return what a reader must know before the tables: machine, versions, limits."""
    machine, peak = results['machine'], results['peak']
    called = 'hybridized' if results['hybridized'] else 'imperative'
    lines = [
        f'{machine["cpu"]}, {machine["instruction_set"] or machine["architecture"]},'
        f' {machine["processors"]} processors, load average before the run {machine["load"]:g}',
        f'gluon_convpool {machine["gluon_convpool"]} ({machine["backend"]} backend), MXNet'
        f' {machine["mxnet"]} ({results["engine"]}, {called} calls), threads: {results["threads"]},'
        f' {results["date"]}',
        f'command: {results["command"]}',
    ]
    if peak['registers']:
        lines.append(
            f'peak of a thread: {peak["registers"] / 1e9:.1f} GFLOP/s in registers,'
            f' {peak["micro_kernel"] / 1e9:.1f} GFLOP/s in the micro-kernel'
        )
    if results['bandwidth']:
        rates = ', '.join(
            f'{value / 1e9:.0f} GB/s ({size / 2**20:g} MiB)'
            for size, value in copy_rates(results).items()
        )
        lines.append(f'copying: {rates}')
    for peer in results['peers'].values():
        if 'version' in peer:
            lines.append(f'{peer["title"]} {peer["version"]}: {peer["note"]}')
        else:
            lines.append(f'{peer["title"]}: {peer["reason"]}')
    if not results['complete']:
        lines.append('stopped before all layers were measured')
    return '\n'.join(lines)


def reasons(results: Results) -> List[str]:
    """List why a table has gaps, one line for each side and reason."""
    titles = {OURS: 'ours', **others(results)}
    found: Dict[str, List[str]] = {}
    for record in results['layers']:
        for which, one in record['passes'].items():
            for side, entry in one['sides'].items():
                # That an inference runtime has no gradients is said in the heading, and that an
                # algorithm cannot do a layer is what its gap means.
                known = side.startswith(f'{OURS}:') and not entry.get('wrong')
                if 'reason' not in entry or known or entry['reason'] == no_pass(which):
                    continue
                layers = found.setdefault(f'{titles.get(side, side)}: {entry["reason"]}', [])
                if record['title'] not in layers:
                    layers.append(record['title'])
    for record in results.get('networks', ()):
        for side, entry in record['sides'].items():
            if 'reason' in entry:
                title = f'{record["network"]}, {record["which"]}'
                found.setdefault(f'{side}: {entry["reason"]}', []).append(title)
    lines = []
    for key, layers in found.items():
        more = f' and {len(layers) - 1} more' if len(layers) > 1 else ''
        lines.append(f'{key} ({layers[0]}{more})')
    return lines


def text(results: Results, markdown: bool = False) -> str:
    """Return everything there is to read, for a terminal or as Markdown."""
    parts = [heading(results)] if not markdown else []
    networks = results.get('networks', [])
    for which in dict.fromkeys(one['which'] for one in networks):
        parts.append(f'**{which}**' if markdown else f'{which}:')
        parts.append(_render(network_table(results, which), markdown))
    if networks:
        parts.append(
            'The columns after the time are times divided by it: above 1, ours is faster. The\n'
            "difference is that of ours from MXNet's, as a share of the largest output."
        )
    measured = [which for which in PASSES if any(which in r['passes'] for r in results['layers'])]
    for which in measured:
        parts.append(f'**{which}**' if markdown else f'{which}:')
        parts.append(_render(comparison(results, which), markdown))
    for which in measured:
        rows = algorithms(results, which)
        if len(rows) > 1:
            title = f'{which}, by algorithm'
            parts.append(f'**{title}**' if markdown else f'{title}:')
            parts.append(_render(rows, markdown))
    gaps = reasons(results)
    if gaps:
        parts.append('\n'.join([f'{NOTHING} means:', *(f'  {line}' for line in gaps)]))
    if measured:
        parts.append(
            'The columns after the algorithm are times divided by ours: above 1, ours is faster.\n'
            'The limit is the multiply-add peak of the threads, operations counted as the direct\n'
            'algorithm does them; for pooling it is the copy of as many bytes.'
        )
    return '\n\n'.join(parts)


# --------------------------------------------------------------------------- the picture

# Told apart by shape and filling, so that a print without colours can be read.
MARKERS = [('o', 'black'), ('s', 'white'), ('^', '0.6'), ('D', 'white'), ('v', 'black')]


def draw(results: Results, path: Path) -> None:
    """Write a picture: how fast ours is for this machine, and how long the others take."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = results['layers'][::-1]  # the first one on top
    measured = [which for which in PASSES if any(which in r['passes'] for r in records)]
    height = 2.2 + 0.24 * len(records)
    figure: Any = Figure(figsize=(5 + 4 * len(measured), height), constrained_layout=True)
    FigureCanvasAgg(figure)
    machine = results['machine']
    figure.suptitle(
        f'gluon_convpool {machine["gluon_convpool"]} on {machine["cpu"]}'
        f' ({machine["instruction_set"] or machine["architecture"]}), threads:'
        f' {results["threads"]}'
    )
    panels = figure.subplots(1, 1 + len(measured), sharey=True)
    _draw_shares(panels[0], results, records, measured[0])
    for axes, which in zip(panels[1:], measured):
        _draw_ratios(axes, results, records, which)
    panels[0].set_yticks(range(len(records)), [record['title'] for record in records])
    panels[0].set_ylim(-0.7, len(records) - 0.3)
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncol=len(labels))
    figure.savefig(path, dpi=110)


def _draw_shares(axes: Any, results: Results, records: List[Dict[str, Any]], which: str) -> None:
    values = [100 * (share(results, record, which) or 0) for record in records]
    axes.barh(range(len(records)), values, color='0.75', edgecolor='black', linewidth=0.5)
    axes.axvline(100, color='black', linewidth=0.8)
    axes.set_xlabel('our speed, % of peak\n(pooling: of a copy)')
    axes.set_title(which)


def _draw_ratios(axes: Any, results: Results, records: List[Dict[str, Any]], which: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.axvline(1, color='black', linewidth=0.8)
    for (name, title), (marker, face) in zip(others(results).items(), MARKERS):
        points = [(ratio(record, which, name), row) for row, record in enumerate(records)]
        found = [(value, row) for value, row in points if value]
        axes.plot(
            [value for value, _ in found],
            [row for _, row in found],
            linestyle='none',
            marker=marker,
            markersize=6,
            markerfacecolor=face,
            markeredgecolor='black',
            label=title,
        )
    axes.set_xscale('log')
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis='both', color='0.9')
    axes.set_axisbelow(True)
    axes.set_xlabel('time / our time\n(right of 1, ours is faster)')
    axes.set_title(which)
