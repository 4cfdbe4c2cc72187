"""The page: one HTML file with its styles, its figures and plotly's code inside; it loads nothing."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from odmt.tuning.report import axis_figures, figures
from odmt.tuning.report.facts import COMPLETED, FAILED, OUTCOMES, Facts, max_epochs
from odmt.tuning.report.importance import Importance, top_share
from odmt.tuning.report.pareto import front, point
from odmt.tuning.report.rung_trust import RungTrust, study_rungs
from odmt.tuning.report.spending import Spending
from odmt.tuning.report.words import condition_in_words, hours, shown
from odmt.tuning.state import Trial

MOST_ROWS = 25
"""Of the leaderboard in the page; the tables hold all trials."""


def render_page(
    facts: Facts,
    spent: Spending,
    found: Sequence[Importance],
    trust: Sequence[RungTrust],
    card: Mapping[str, Any],
    made: str,
    last: str | None,
) -> str:
    """Return the whole page. Every text of the study is escaped: values, reasons and names are a user's."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("odmt.tuning.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": shown,
        "hours": hours,
        "planned_hours": _planned_hours,
        "minute": lambda text: f"{text[:10]} {text[11:16]} UTC",
    }
    environment.globals |= {"figure": _figure, "own": lambda name: Markup(_own(environment, name))}
    ranked = facts.ranked()
    return environment.get_template("page.html.j2").render(
        facts=facts,
        study=facts.study,
        made=made,
        last=last,
        spent=spent,
        counts={outcome: facts.count(outcome) for outcome in OUTCOMES},
        leaders=[_leader(facts, trial) for trial in ranked[:MOST_ROWS]],
        num_ranked=len(ranked),
        incumbent=next((trial for trial in facts.trials if trial.source == "incumbent"), None),
        failed=[trial for trial in facts.trials if trial.state == FAILED],
        setbacks=facts.study.setbacks,
        curves=figures.learning_curves(facts) if any(trial.epochs for trial in facts.trials) else None,
        progress=figures.best_so_far(facts) if any(trial.epochs for trial in facts.trials) else None,
        importance=[_importance(facts, found, *key) for key in _keys(found)],
        parallel=axis_figures.parallel_coordinates(facts),
        slices=axis_figures.slices(facts),
        pareto=axis_figures.pareto_fronts(facts),
        on_front=[_leader(facts, trial) for trial in front(facts)] if len(facts.objectives) > 1 else [],
        rungs=study_rungs(facts),
        trust=trust,
        trust_figure=figures.rung_scatter(facts, [t for t in facts.trials if t.state == COMPLETED]),
        card=card,
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
        conditions={path: condition_in_words(axis) for path, axis in facts.axes.items() if axis.when},
    )


def _planned_hours(value: float | None) -> str:
    return "not planned" if value is None else hours(value)


def _leader(facts: Facts, trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial,
        "outcome": facts.outcome(trial),
        "objectives": point(facts, trial),
        "epochs": f"{len(trial.epochs)} of {max_epochs(trial)}",
        "hours": sum(epoch.seconds for epoch in trial.epochs) / 3600,
    }


def _keys(found: Sequence[Importance]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((item.objective, item.target) for item in found))


def _importance(facts: Facts, found: Sequence[Importance], objective: str, target: str) -> dict[str, Any]:
    """Return what the page says about one objective and target: a figure, a table, and what could not be computed."""
    items = [item for item in found if (item.objective, item.target) == (objective, target)]
    totals = {path: [item.shares[path] for item in items if path in item.shares] for path in facts.axes}
    order = sorted(
        (path for path, shares in totals.items() if shares), key=lambda path: -sum(totals[path]) / len(totals[path])
    )
    evaluators = list(dict.fromkeys(item.evaluator for item in items))
    n = max((item.n for item in items), default=0)
    return {
        "objective": objective,
        "target": target,
        "n": n,
        "top": top_share(n) if n else None,
        "figure": figures.importance_bars(items, order),
        "evaluators": evaluators,
        "rows": [(path, [_cell(items, name, path) for name in evaluators]) for path in order],
        "problems": [item for item in items if item.problem is not None],
        "subsets": {item.condition: item.n for item in items if item.condition and item.problem is None},
    }


def _cell(items: Sequence[Importance], evaluator: str, path: str) -> str:
    for item in items:
        if item.evaluator == evaluator and path in item.shares:
            return f"{item.shares[path]:.1%}" + ("*" if item.condition else "")
    return "–"


def _figure(drawn: go.Figure, name: str, says: str) -> Markup:
    """Return a figure's place and its data; the page's script draws it."""
    data = Markup(in_script(drawn.to_json()))
    return Markup(
        '<figure><div class="plot" id="{}" role="img" aria-label="{}" style="min-height:{}px"></div>'
        '<script type="application/json" data-for="{}">{}</script></figure>'
    ).format(f"plot-{name}", says, int(drawn.layout.height or 400), f"plot-{name}", data)


def in_script(text: str) -> str:
    """Return JSON that cannot end the script element it stands in."""
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    json.loads(text)
    return text


def _own(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
