"""Figures over time and over evaluators: learning curves, best so far, importance, rungs; the page colours text."""

import math
from collections.abc import Iterable, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from odmt.tuning.report.facts import COMPLETED, FAILED, INTERRUPTED, OUTCOMES, RUNNING, STOPPED, Facts
from odmt.tuning.report.importance import Importance
from odmt.tuning.report.rung_trust import study_rungs
from odmt.tuning.report.scales import plain
from odmt.tuning.state import Trial

COLOURS = {
    COMPLETED: "#009E73",
    STOPPED: "#E69F00",
    FAILED: "#D5301E",
    RUNNING: "#3B8FD4",
    INTERRUPTED: "#B573A8",
}
"""Of outcomes, after Okabe and Ito: told apart with every kind of colour vision, on light and dark."""

SERIES = ("#3B8FD4", "#E69F00", "#009E73")
GRID = "rgba(128,128,128,0.22)"


def styled(figure: go.Figure, height: int) -> go.Figure:
    """Give a figure the page's look; the page itself colours the text."""
    figure.update_layout(
        height=height,
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif", "size": 13},
        margin={"l": 64, "r": 24, "t": 32, "b": 52},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "bgcolor": "rgba(0,0,0,0)"},
        hovermode="closest",
    )
    figure.update_xaxes(title_font={"size": 13})
    figure.update_yaxes(title_font={"size": 13}, title_standoff=14)
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor=GRID, automargin=True)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, linecolor=GRID, automargin=True)
    return figure


def learning_curves(facts: Facts) -> go.Figure:
    """Draw the first objective over epochs, a line a trial, one colour an outcome, the best trial thick."""
    figure = go.Figure()
    best = facts.best
    for outcome in OUTCOMES:
        trials = [trial for trial in facts.trials if facts.outcome(trial) == outcome and trial.epochs]
        if trials:
            dash = "dot" if outcome == FAILED else "solid"
            figure.add_trace(_curves(facts, trials, f"{outcome} ({len(trials)})", COLOURS[outcome], 1.5, dash))
    sentinels = [trial for trial in facts.trials if trial.sentinel and trial.epochs]
    if sentinels:
        name = f"sentinel, never stopped ({len(sentinels)})"
        figure.add_trace(_curves(facts, sentinels, name, "rgba(128,128,128,0.75)", 1.5, "dash"))
    if best is not None:
        figure.add_trace(_curves(facts, [best], f"best: {best.trial_id}", COLOURS[facts.outcome(best)], 4, "solid"))
    for rung in study_rungs(facts):
        figure.add_vline(x=rung, line={"dash": "dot", "width": 1, "color": "rgba(128,128,128,0.8)"})
        figure.add_annotation(
            x=rung, y=1, yref="paper", text=f"{rung}", showarrow=False, xanchor="left", yanchor="top", xshift=3
        )
    figure.update_xaxes(title="epoch", rangemode="tozero", tickformat="d")
    figure.update_yaxes(title=plain(facts.objectives[0].metric))
    return styled(figure, 480)


def _curves(facts: Facts, trials: Iterable[Trial], name: str, colour: str, width: float, dash: str) -> go.Scatter:
    """Return one trace for many trials: a gap between them costs far less than a trace each."""
    xs: list[int | None] = []
    ys: list[float | None] = []
    names: list[str] = []
    for trial in trials:
        for epoch in trial.epochs:
            value = facts.objectives[0].of(epoch)
            xs.append(epoch.epoch)
            ys.append(value if math.isfinite(value) else None)
            names.append(trial.trial_id)
        xs.append(None)
        ys.append(None)
        names.append("")
    return go.Scatter(
        x=xs,
        y=ys,
        customdata=names,
        name=plain(name),
        mode="lines+markers",
        line={"color": colour, "width": width, "dash": dash},
        marker={"size": 4},
        opacity=0.9,
        hovertemplate="%{customdata}, epoch %{x}: %{y:.4f}<extra></extra>",
    )


def best_so_far(facts: Facts) -> go.Figure:
    """Draw the best value found against the epochs spent, in the order in which epochs were recorded."""
    events = sorted(
        (epoch.time, trial.number, facts.objectives[0].of(epoch), trial.trial_id)
        for trial in facts.trials
        for epoch in trial.epochs
    )
    better = max if facts.objectives[0].is_max else min
    xs, ys, names, best = [], [], [], math.nan
    for count, (_, _, value, trial_id) in enumerate(events, start=1):
        if math.isfinite(value) and (math.isnan(best) or (better(value, best) == value != best)):
            best = value
            xs.append(count)
            ys.append(best)
            names.append(trial_id)
    if xs:
        xs, ys, names = [*xs, len(events)], [*ys, best], [*names, names[-1]]
    trace = go.Scatter(
        x=xs,
        y=ys,
        customdata=names,
        mode="lines+markers",
        line={"shape": "hv", "color": SERIES[0], "width": 2.5},
        marker={"size": 6},
        hovertemplate="after %{x} epochs: %{y:.4f} (%{customdata})<extra></extra>",
    )
    figure = go.Figure(trace)
    figure.update_xaxes(title="epochs spent, all trials together", rangemode="tozero")
    figure.update_yaxes(title="best so far")
    return styled(figure, 340)


def importance_bars(found: Sequence[Importance], order: Sequence[str]) -> go.Figure | None:
    """Draw the shares of the axes that every trial has, a colour an evaluator; None where none was computed.

    Args:
        found: of one objective and one target.
        order: dotted paths, the most important first.
    """
    able = [item for item in found if item.problem is None and not item.condition]
    if not able:
        return None
    figure = go.Figure()
    # Plotly draws bars from below, so the last one stands on top and first in the legend.
    for colour, item in reversed(list(zip(SERIES, able, strict=False))):
        paths = [path for path in reversed(order) if path in item.shares]
        figure.add_trace(
            go.Bar(
                x=[item.shares[path] for path in paths],
                y=[plain(path) for path in paths],
                name=item.evaluator,
                orientation="h",
                marker={"color": colour},
                hovertemplate=f"%{{y}}: %{{x:.1%}}<extra>{item.evaluator}</extra>",
            )
        )
    figure.update_layout(barmode="group", bargap=0.25, legend={"traceorder": "reversed"})
    figure.update_xaxes(title="share", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=[plain(path) for path in reversed(order)])
    return styled(figure, 130 + 34 * max(1, len(order)))


def rung_scatter(facts: Facts, trials: Sequence[Trial]) -> go.Figure | None:
    """Draw each trial's value at every rung against its last value, a panel a rung; None without trials or rungs."""
    rungs = [rung for rung in study_rungs(facts) if any(len(trial.epochs) > rung for trial in trials)]
    if not rungs:
        return None
    figure = make_subplots(cols=len(rungs), shared_yaxes=True, subplot_titles=[f"rung {rung}" for rung in rungs])
    value = facts.objectives[0].of
    for column, rung in enumerate(rungs, start=1):
        there = [trial for trial in trials if len(trial.epochs) > rung]
        figure.add_trace(
            go.Scatter(
                x=[value(trial.epochs[rung - 1]) for trial in there],
                y=[value(trial.epochs[-1]) for trial in there],
                customdata=[trial.trial_id for trial in there],
                mode="markers",
                marker={
                    "size": 9,
                    "color": [SERIES[0] if trial.sentinel else "rgba(128,128,128,0.65)" for trial in there],
                },
                hovertemplate="%{customdata}: %{x:.4f}, at the end %{y:.4f}<extra></extra>",
                showlegend=False,
            ),
            row=1,
            col=column,
        )
    figure.update_xaxes(title="at the rung")
    figure.update_yaxes(title="last epoch", col=1)
    styled(figure, 340).update_annotations(font={"size": 13})
    return figure.update_layout(margin={"t": 62})
