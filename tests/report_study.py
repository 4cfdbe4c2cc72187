"""Studies written by hand, record by record: what the event log of a search may hold, without a search."""

import json
from pathlib import Path

from odmt.config import RunConfig, to_mapping
from odmt.tuning.event_log import encode
from odmt.tuning.report.facts import read_facts
from odmt.tuning.state import METRIC

AXES = [
    ["train.learning_rate", {"type": "loguniform", "low": 1e-4, "high": 1e-2}],
    ["model.backbone", {"type": "choice", "values": ["sasrec", "gru4rec"]}],
    ["sequence.dropout", {"type": "uniform", "low": 0.0, "high": 0.5, "when": {"model.backbone": ["sasrec"]}}],
]
SCHEDULER = {"name": "asha", "grace_period": 1, "reduction_factor": 2.0}
NAME = "made"


class MadeStudy:
    """Records of one study; ``facts`` writes them as a log and reads it back."""

    def __init__(self, *, max_epochs=4, axes=AXES, trials=8, objectives=((METRIC, "max"),), fixed=None, **header):
        config = to_mapping(RunConfig())
        config["train"]["max_epochs"] = max_epochs
        for path, value in (fixed or {}).items():
            section, key = path.split(".")
            config[section][key] = value
        self.config, self.time, self.number = config, 1000.0, 0
        identity = {
            "config": config,
            "axes": axes,
            "resting": {"sequence.dropout": 0.1},
            "incumbent": {"train.learning_rate": 1e-3, "model.backbone": "sasrec", "sequence.dropout": 0.1},
            "sampler": {"name": "tpe", "seed": 3, "startup_trials": 10},
            "scheduler": SCHEDULER,
        }
        self.records = []
        self.add(
            "header",
            format=1,
            study=NAME,
            study_id="0123abcd",
            space="small",
            space_file="small.yaml",
            dataset="demo",
            digest="d" * 64,
            identity=identity,
            data_digest="data-digest",
            run_digests=[],
            trials=trials,
            seed=3,
            versions={"python": "3.11", "optuna": "5.0.0"},
            objectives=[list(pair) for pair in objectives],
            code="0.1.0+abc",
            warm_start=[],
            **header,
        )

    def add(self, kind, **fields):
        self.time += 1
        self.records.append({"kind": kind, "time": self.time, **fields})

    def opened(self, **fields):
        self.add(
            "opened",
            **{"pid": 1, "host": "a", "code": "0.1.0+abc", "cpus": 1, "gpus": 0, "concurrent": 2} | fields,
        )

    def trial(self, values, curve=(), *, verdict=None, sentinel=False, source="sampler", extra=None, reason=None):
        """Add a trial whose first objective takes these values; ``verdict`` is that of its last epoch."""
        trial_id = f"t{self.number:04d}"
        names = {"source": source, "sentinel": sentinel, "bracket": 0, "asof": len(self.records)}
        self.add(
            "proposed",
            trial=trial_id,
            number=self.number,
            values=values,
            config=self.config,
            distributions={},
            system_attrs={},
            study_attrs={},
            draws=1,
            **names,
        )
        self.number += 1
        self.add("started", trial=trial_id, attempt=1)
        for epoch, value in enumerate(curve, start=1):
            is_last = epoch == len(curve)
            self.add(
                "epoch",
                trial=trial_id,
                epoch=epoch,
                metrics={METRIC: value, **(extra or {})},
                verdict=(verdict or "continue") if is_last else "continue",
                checkpoint=None,
                seconds=2.0,
                reason=reason if is_last else None,
                host="a",
            )
        return trial_id

    def completed(self, values, curve, **fields):
        return self.trial(values, curve, verdict="complete", **fields)

    def stopped(self, values, curve, **fields):
        return self.trial(values, curve, verdict="stop", **fields)

    def write(self, home):
        folder = home.study(NAME)
        folder.mkdir(parents=True, exist_ok=True)
        path = Path(folder / "events.jsonl")
        path.write_bytes(b"".join(encode(record) for record in self.records))
        return path

    def facts(self, home):
        self.write(home)
        return read_facts(home, NAME)


def sasrec(learning_rate=1e-3, dropout=0.1):
    return {"train.learning_rate": learning_rate, "model.backbone": "sasrec", "sequence.dropout": dropout}


def gru(learning_rate=1e-3):
    return {"train.learning_rate": learning_rate, "model.backbone": "gru4rec"}


def embedded(page):
    """Return the figures of a page: what the scripts of plotly's data say."""
    parts = page.split('<script type="application/json" data-for="')[1:]
    return {part.partition('"')[0]: json.loads(part.partition(">")[2].partition("</script>")[0]) for part in parts}
