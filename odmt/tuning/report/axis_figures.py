"""Figures over the searched settings and the objectives: parallel coordinates, slices, Pareto fronts."""

import itertools
import math
from collections.abc import Iterable, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from odmt.tuning.axes import Axis
from odmt.tuning.report.facts import OUTCOMES, RANKED, Facts
from odmt.tuning.report.figures import COLOURS, SERIES, styled
from odmt.tuning.report.pareto import front, point
from odmt.tuning.report.scales import bounds, plain, position, ticks
from odmt.tuning.report.words import shown
from odmt.tuning.state import Trial

ABSENT = "not there"
"""What a conditional axis shows for a trial that does not have it."""
_COLUMNS = 3
_LOOKALIKES = str.maketrans("<>", "‹›")
"""These ticks are text to plotly today, where entities would show; lookalikes are safe whatever it does."""

_SCALE = ((0.0, "#98a1b3"), (0.45, "#3B8FD4"), (0.8, "#009E73"), (1.0, "#E69F00"))
"""Of values, the best last; every colour can be seen on light and dark."""


def parallel_coordinates(facts: Facts) -> go.Figure | None:
    """Draw a line a ranked trial through all axes, coloured by the first objective; None below two trials."""
    trials = facts.ranked()
    if len(trials) < 2 or not facts.axes:
        return None
    trials.reverse()  # the best ones are drawn last, on top
    values = [facts.value(trial) for trial in trials]
    dimensions = [
        _dimension(axis, trials, label) for axis, label in zip(facts.axes.values(), _short(facts.axes), strict=True)
    ]
    dimensions.append({"label": plain(facts.objectives[0].metric), "values": values, "tickformat": ".3f"})
    line = {
        "color": values,
        "colorscale": _SCALE,
        "reversescale": not facts.objectives[0].is_max,
        "showscale": True,
        "colorbar": {"thickness": 12, "outlinewidth": 0, "tickformat": ".3f"},
    }
    figure = go.Figure(go.Parcoords(dimensions=dimensions, line=line, labelangle=-18, labelside="bottom"))
    styled(figure, 470)
    figure.update_layout(margin={"l": 80, "r": 40, "t": 30, "b": 64})
    return figure


def _dimension(axis: Axis, trials: Sequence[Trial], label: str) -> dict[str, object]:
    low, high = bounds(axis)
    found = ticks(axis)
    at, labels = list(found.at), list(found.labels)
    span = (high - low) or 1.0
    if any(axis.path not in trial.values for trial in trials):
        low -= 0.2 * span
        at, labels = [low, *at], [ABSENT, *labels]
    where = [position(axis, trial.values[axis.path]) if axis.path in trial.values else low for trial in trials]
    if low == high:
        low, high = low - 0.5, high + 0.5
    return {
        "label": plain(label),
        "values": where,
        "range": [low, high],
        "tickvals": at,
        "ticktext": [label.translate(_LOOKALIKES) for label in labels],
    }


def slices(facts: Facts) -> go.Figure | None:
    """Draw the first objective against each axis alone, coloured by outcome; None without a usable value."""
    trials = [trial for trial in facts.trials if math.isfinite(facts.value(trial))]
    if not trials or not facts.axes:
        return None
    axes = list(facts.axes.values())
    rows = -(-len(axes) // _COLUMNS)
    titles = [plain(axis.path) for axis in axes]
    spacing = min(0.22 / rows, 0.12)
    figure = make_subplots(
        rows=rows, cols=_COLUMNS, subplot_titles=titles, vertical_spacing=spacing, horizontal_spacing=0.06
    )
    named: set[str] = set()
    for index, axis in enumerate(axes):
        row, column = index // _COLUMNS + 1, index % _COLUMNS + 1
        for outcome in OUTCOMES:
            some = [t for t in trials if facts.outcome(t) == outcome and axis.path in t.values]
            if some:
                trace = _slice(facts, axis, some, outcome, in_legend=outcome not in named)
                named.add(outcome)
                figure.add_trace(trace, row=row, col=column)
        low, high = bounds(axis)
        pad = 0.4 if axis.kind == "choice" else 0.05 * (high - low)
        found = ticks(axis, 4)
        figure.update_xaxes(
            tickvals=found.at,
            ticktext=[plain(label) for label in found.labels],
            range=[low - pad, high + pad],
            row=row,
            col=column,
        )
    styled(figure, 90 + 230 * rows)
    figure.update_xaxes(tickangle=0)
    figure.update_yaxes(nticks=5)
    figure.update_yaxes(title={"text": plain(facts.objectives[0].metric), "font": {"size": 13}}, col=1)
    figure.update_annotations(font={"size": 13})
    figure.update_layout(legend={"y": 1 + 46 / (90 + 230 * rows)}, margin={"t": 76})
    return figure


def _slice(facts: Facts, axis: Axis, trials: Sequence[Trial], outcome: str, *, in_legend: bool) -> go.Scatter:
    return go.Scatter(
        x=[position(axis, trial.values[axis.path]) + _jitter(axis, trial) for trial in trials],
        y=[facts.value(trial) for trial in trials],
        customdata=[[trial.trial_id, plain(shown(trial.values[axis.path]))] for trial in trials],
        name=outcome,
        legendgroup=outcome,
        showlegend=in_legend,
        mode="markers",
        marker={"color": COLOURS[outcome], "size": 8, "opacity": 0.8},
        hovertemplate="%{customdata[0]}: %{customdata[1]}<br>%{y:.4f}<extra></extra>",
    )


def _jitter(axis: Axis, trial: Trial) -> float:
    """Spread the trials of one choice a little, always in the same way."""
    return ((trial.number * 0.618034) % 1 - 0.5) * 0.3 if axis.kind == "choice" else 0.0


def pareto_fronts(facts: Facts) -> go.Figure | None:
    """Draw each pair of objectives, the trials on the front in colour; None with a single objective."""
    pairs = list(itertools.combinations(range(len(facts.objectives)), 2))
    trials = [trial for trial in facts.trials if trial.state in RANKED]
    points = {t.trial_id: p for t in trials if all(map(math.isfinite, p := point(facts, t)))}
    if not pairs or not points:
        return None
    best = [trial.trial_id for trial in front(facts)]
    figure = make_subplots(cols=min(len(pairs), _COLUMNS), rows=-(-len(pairs) // _COLUMNS))
    for index, (x, y) in enumerate(pairs):
        place = {"row": index // _COLUMNS + 1, "col": index % _COLUMNS + 1}
        others = [trial_id for trial_id in points if trial_id not in best]
        groups = {"dominated": (others, "rgba(128,128,128,0.7)"), "on the front": (best, SERIES[0])}
        for name, (ids, colour) in groups.items():
            ids = sorted(ids, key=lambda trial_id: points[trial_id][x])
            is_line = name == "on the front" and len(pairs) == 1
            figure.add_trace(
                go.Scatter(
                    x=[points[trial_id][x] for trial_id in ids],
                    y=[points[trial_id][y] for trial_id in ids],
                    customdata=ids,
                    name=name,
                    legendgroup=name,
                    showlegend=index == 0,
                    mode="lines+markers" if is_line else "markers",
                    line={"color": colour, "width": 1.5, "dash": "dot"},
                    marker={"color": colour, "size": 9},
                    hovertemplate="%{customdata}: %{x:.4g}, %{y:.4g}<extra></extra>",
                ),
                **place,
            )
        figure.update_xaxes(title=plain(facts.objectives[x].in_words), **place)
        figure.update_yaxes(title=plain(facts.objectives[y].in_words), **place)
    return styled(figure, 440 * -(-len(pairs) // _COLUMNS))


def _short(paths: Iterable[str]) -> list[str]:
    """Return paths without their sections, which are dropped where the rest still tells them apart."""
    leaves = {path: path.rpartition(".")[2] for path in paths}
    return [leaf if list(leaves.values()).count(leaf) == 1 else path for path, leaf in leaves.items()]
