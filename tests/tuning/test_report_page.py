"""What the report writes: the page, the tables, the protocol card and its LaTeX."""

import io
import json
import math
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from report_study import AXES, NAME, MadeStudy, embedded, gru, sasrec

from odmt.config import to_mapping
from odmt.tuning.report.build import build_report, write_report
from odmt.tuning.report.latex import escaped
from odmt.tuning.report.page import in_script
from odmt.tuning.sections import SamplerConfig, SchedulerConfig
from odmt.tuning.state import METRIC

SECTIONS = ("leaderboard", "curves", "importance", "parallel", "slices", "budget", "rungs", "faults", "protocol")
EVIL = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'


class Reader(HTMLParser):
    """Collects the tags, ids, links and sources of a page, its scripts left out."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.ids, self.links, self.loads, self.words = [], [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        self.loads += [found[name] for name in ("src", "data") if name in found]
        self.loads += [found["href"]] if tag == "link" else []

    def handle_data(self, data):
        self.words.append(data)


def small(**header):
    study = MadeStudy(trials=4, **header)
    study.opened()
    study.completed(sasrec(), [0.1, 0.2, 0.3, 0.4], source="incumbent", sentinel=True)
    study.stopped(gru(), [0.2])
    study.trial(gru(2e-3), [0.1, math.nan], verdict="fail", reason="epoch 2: not a number")
    return study


def test_the_page_has_every_section_and_its_contents_lead_to_them(home):
    page = Reader(build_report(small().facts(home)).page)
    assert set(SECTIONS) <= set(page.ids)
    inner = [link.removeprefix("#") for link in page.links if link.startswith("#")]
    assert set(SECTIONS) <= set(inner) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_page_loads_nothing(home):
    page = build_report(small().facts(home)).page
    assert Reader(page).loads == []
    assert "default-src 'none'" in page
    outside = [link for link in Reader(page).links if re.match(r"\w+:", link)]
    assert outside == []


def test_curves_are_coloured_by_outcome(home):
    study = small()
    study.trial(gru(3e-3), [0.15])
    curves = embedded(build_report(study.facts(home)).page)["plot-curves"]["data"]
    colours = {trace["name"]: trace["line"]["color"] for trace in curves}
    groups = ["completed (1)", "stopped (1)", "failed (1)", "interrupted (1)"]
    assert list(colours)[:4] == groups
    assert len({colours[name] for name in groups}) == 4
    assert curves[0]["x"][:4] == [1, 2, 3, 4]


def test_an_unfinished_study_says_so(home):
    study = small()
    assert "interrupted and is not finished" in build_report(study.facts(home)).page
    study.stopped(gru(4e-3), [0.1])
    page = build_report(study.facts(home)).page
    assert "is not finished" not in page


def test_a_study_without_a_trial_is_reported(home):
    report = build_report(MadeStudy().facts(home))
    assert report.summary["best"] == []
    assert "No trial has ended with a usable value yet." in report.page


def test_a_study_of_failures_alone_is_reported(home):
    study = MadeStudy()
    study.trial(gru(), [math.nan], verdict="fail", reason="epoch 1: not a number")
    page = build_report(study.facts(home)).page
    assert "epoch 1: not a number" in page


def test_a_study_without_rungs_says_so(home):
    study = MadeStudy(max_epochs=1)
    study.completed(sasrec(), [0.1])
    assert "scheduler has no rungs" in build_report(study.facts(home)).page


def test_text_of_a_study_stays_text(home):
    axes = [*AXES[:1], ["model.id_init", {"type": "choice", "values": [EVIL, "<b>bold</b>"]}]]
    study = MadeStudy(axes=axes, fixed={"data.dataset": EVIL})
    study.completed({"train.learning_rate": 1e-3, "model.id_init": EVIL}, [0.1] * 4)
    study.completed({"train.learning_rate": 2e-3, "model.id_init": "<b>bold</b>"}, [0.2] * 4)
    study.trial({"train.learning_rate": 3e-3, "model.id_init": EVIL}, [math.nan], verdict="fail", reason=EVIL)
    page = build_report(study.facts(home)).page
    found = Reader(page)
    assert "img" not in found.tags
    assert "b" not in Reader(page[page.index('id="protocol"') :]).tags
    assert found.tags.count("script") == page.count('<script type="application/json"') + 2
    shown = json.dumps(embedded(page))
    assert not any(tag in shown for tag in ("<img", "<b>", "<script"))
    assert "&lt;b&gt;bold" in shown
    assert EVIL in "".join(found.words)


def test_data_in_a_script_cannot_end_it():
    text = in_script(json.dumps({"a": "</script><!-- & \u2028"}))
    assert "<" not in text
    assert json.loads(text) == {"a": "</script><!-- & \u2028"}


def test_two_objectives_bring_a_pareto_front(home):
    study = MadeStudy(objectives=[(METRIC, "max"), ("cost/parameters", "min")])
    study.completed(sasrec(), [0.1, 0.2, 0.3, 0.5], extra={"cost/parameters": 100.0})
    study.completed(gru(), [0.1, 0.2, 0.3, 0.4], extra={"cost/parameters": 50.0})
    study.completed(gru(2e-3), [0.1, 0.2, 0.3, 0.3], extra={"cost/parameters": 70.0})
    report = build_report(study.facts(home))
    assert [entry["trial"] for entry in report.summary["pareto_front"]] == ["t0000", "t0001"]
    front = embedded(report.page)["plot-pareto"]["data"][1]
    assert (front["name"], front["customdata"]) == ("on the front", ["t0001", "t0000"])
    assert 'id="pareto"' not in build_report(small().facts(home)).page


def test_files_agree_with_each_other(home, tmp_path):
    files = write_report(build_report(small().facts(home)), tmp_path / "out")
    assert [file.name for file in files] == ["index.html", "report.json", "trials.csv", "epochs.csv", "protocol.tex"]
    summary = json.loads(files[1].read_text())
    trials = pd.read_csv(io.StringIO(files[2].read_text()))
    assert list(trials["trial"]) == ["t0000", "t0001", "t0002"]
    assert summary["counts"] == {"completed": 1, "stopped": 1, "failed": 1, "running": 0, "interrupted": 0}
    assert summary["best"][0]["trial"] == "t0000"
    assert len(pd.read_csv(files[3])) == 7
    assert files[4].read_text() == summary["protocol"]["latex"] + "\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(file.name for file in files)


@pytest.mark.parametrize(
    ("section", "name", "said"),
    [
        ("sampler", "tpe", "tpe (seed 1, startup_trials 10, multivariate true, ei_candidates 24)"),
        ("sampler", "random", "random (seed 1)"),
        ("sampler", "nsga2", "nsga2 (seed 1, crossover_prob 0.9)"),
        ("scheduler", "asha", "asha (grace_period 1, reduction_factor 3, brackets 1, sentinels 0)"),
        ("scheduler", "median", "median (grace_period 1, sentinels 0, min_trials 3)"),
        ("scheduler", "none", "none"),
    ],
)
def test_the_card_leaves_out_the_settings_that_are_not_read(home, section, name, said):
    study = small()
    config = {"sampler": SamplerConfig, "scheduler": SchedulerConfig}[section](name=name)
    study.records[0]["identity"][section] = to_mapping(config)
    card = build_report(study.facts(home)).summary["protocol"]
    assert {fact["name"]: fact["value"] for fact in card["facts"]}[section] == said


def test_the_card_holds_the_protocol(home):
    card = build_report(small(fixed={"train.batch_size": 77}).facts(home)).summary["protocol"]
    facts = {fact["name"]: fact["value"] for fact in card["facts"]}
    assert facts["selection metric"].startswith(f"max {METRIC}, best epoch of a trial")
    assert facts["seeds"] == "search 3, training 1"
    assert facts["sampler"] == "tpe (seed 3, startup_trials 10)"
    assert facts["scheduler"] == "asha (grace_period 1, reduction_factor 2)"
    assert facts["rungs (epochs)"] == "1, 2"
    assert facts["budget"] == "4 trials"
    assert facts["code version"] == "0.1.0+abc"
    assert facts["libraries"] == "python 3.11, optuna 5.0.0"
    assert facts["data digest"] == "data-digest"
    fixed = {item["path"]: (item["value"], item["default"]) for item in card["fixed"]}
    assert fixed == {"train.max_epochs": ("4", "31"), "train.batch_size": ("77", "128")}
    assert [axis["range"] for axis in card["axes"]] == ["0.0001 to 0.01", "one of sasrec, gru4rec", "0 to 0.5"]
    assert card["axes"][2]["condition"] == "model.backbone is sasrec"
    assert card["axes"][2]["otherwise"] == "0.1"


def test_bad_attempts_say_whether_they_were_tried_again_and_no_plan_is_no_limit(home):
    study = small()
    study.trial(gru(4e-3), [0.1])
    for what, retry in [("died", True), ("disk", False)]:
        fields = {"trial": "t0003", "attempt": 1, "what": what, "reason": "r", "host": "h", "retry": retry}
        study.add("setback", **fields, quick=False, wait=0.0)
    page = build_report(study.facts(home)).page
    assert "Attempts that ended badly</h3>" in page
    assert "<td>died</td><td>yes</td>" in page
    assert "<td>disk</td><td>no</td>" in page
    assert '<td class="num">not planned</td><td class="num">not limited</td>' in page


def test_a_second_code_version_is_told(home):
    study = small()
    study.opened(code="0.1.0+def")
    card = build_report(study.facts(home)).summary["protocol"]
    assert {fact["name"]: fact["value"] for fact in card["facts"]}["code version"] == "0.1.0+abc, 0.1.0+def"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 50% of $x#1", r"a\_b \& 50\% of \$x\#1"),
        ("\\input{x}", r"\textbackslash{}input\{x\}"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("[0, 1]", r"{[}0, 1{]}"),
        ("line\nbreak\x00", "line break"),
    ],
)
def test_latex_prints_text_as_it_stands(text, expected):
    assert escaped(text) == expected


def test_the_latex_table_has_a_row_an_axis(home):
    tex = build_report(small().facts(home)).summary["protocol"]["latex"]
    assert r"    train.learning\_rate & loguniform & 0.0001 to 0.01 & always & 0.001 & 0.001 \\" in tex
    assert r"    sequence.dropout & uniform & 0 to 0.5 & model.backbone is sasrec & 0.1 & 0.1 \\" in tex
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2


def test_a_running_study_is_told_apart_from_an_interrupted_one(home):
    from odmt.tuning.event_log import EventLog
    from odmt.tuning.report.facts import read_facts

    small().write(home)
    with EventLog(home.study(NAME)):
        facts = read_facts(home, NAME)
    assert facts.standing == "running"
    assert "The study is still running." in build_report(facts).page
