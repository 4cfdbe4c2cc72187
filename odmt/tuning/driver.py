"""Run a study: from the event log, through Ray, back to the event log."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from odmt.cluster.connect import Place, check_reachable, choose_place, connect, disconnect, num_cpus, num_gpus
from odmt.cluster.nodes import alive_nodes
from odmt.cluster.storage import writable_folder
from odmt.cluster.workers import Workers
from odmt.errors import ConfigError, InterruptedStudy, SharedFeaturesError
from odmt.home import Home, code_version
from odmt.tuning.budget import record_met
from odmt.tuning.callbacks import MirrorListener
from odmt.tuning.event_log import EventLog, Listener
from odmt.tuning.identity import open_study
from odmt.tuning.journal import Journal
from odmt.tuning.preflight import Inputs, Source
from odmt.tuning.progress import StudyProgress
from odmt.tuning.resources import resource_sentences, slots, trial_resources
from odmt.tuning.room import largest_checkpoint, room_sentences
from odmt.tuning.space import Space
from odmt.tuning.state import Study
from odmt.tuning.study import StudyView, is_folder_name, view
from odmt.tuning.tune_loop import Reservation, run_loop
from odmt.tuning.warm_start import check_names, warm_records
from odmt.tuning.watch import Watch
from odmt.tuning.wording import clock, counted


def _silent(sentence: str) -> None:
    del sentence


def _unheard(folder: Path, inputs: Inputs) -> None:
    del folder, inputs


def _no_words() -> str:
    return ""


@dataclass(frozen=True)
class Options:
    """How a study is run, as opposed to what it is.

    Attributes:
        command: what to type to go on after an interruption.
        where: ``auto``, ``local`` or ``attach``.
        extend: allow more trials than the study was begun with.
        quiet: no live view.
        say: told each sentence for the screen.
        make_mirror: given the study's header, returns a started ``RunMirror``, or None for no mirror.
        runner: stands in for ``training_run``.
        source: where the inputs come from.
        local_cpus: CPUs of a local Ray; None = all.
        ray_folder: of a local Ray; None = Ray's own.
        warm_start: names of earlier studies that a new one begins with.
        opened: told the study's folder and inputs once it is known to be the one asked for.
        listener: of the event log; None = none.
        standing: says how MLflow stands, for the live view.
    """

    command: str = "python launch/tune.py"
    where: str = "auto"
    extend: bool = False
    quiet: bool = False
    say: Callable[[str], None] = _silent
    make_mirror: Callable[[Any], Any] | None = None
    runner: Callable[..., Any] | None = None
    source: Source = field(default_factory=Source)
    local_cpus: int | None = None
    ray_folder: Path | None = None
    warm_start: tuple[str, ...] = ()
    opened: Callable[[Path, Inputs], None] = _unheard
    listener: Listener | None = None
    standing: Callable[[], str] = _no_words


def run_study(space: Space, home: Home, name: str, options: Options) -> StudyView:
    """Run a study to its end, or go on with it; a finished one is only read.

    Raises:
        ConfigError: the name or the place is not usable.
        DataError: prepared data is missing; found before Ray starts.
        StudyChangedError: another study stands under this name.
        StudyLockedError: another driver runs it.
        SharedFeaturesError: a trial wrote to shared features.
        ServiceError: Ray or the storage cannot be used.
        InterruptedStudy: stopped by a signal; the same command goes on.
    """
    if not is_folder_name(name):
        raise ConfigError("--study", [f"{name!r} is not a folder name"])
    place = choose_place(options.where)
    check_reachable(place)
    inputs = options.source.inputs(home, space)
    for sentence in inputs.sentences:
        options.say(sentence)
    check_names(home, options.warm_start, name)
    folder = writable_folder(home.study(name))
    with EventLog(folder) as log:
        open_study(
            log,
            name,
            space,
            inputs.digest,
            extend=options.extend,
            run_digests=inputs.run_digests,
            warm_start=options.warm_start,
            warm=partial(warm_records, home, options.warm_start, space, inputs.digest),
        )
        _say_standing(log.study, options.say)
        options.opened(folder, inputs)
        log.listeners += [options.listener] if options.listener else []
        with _mirrored(log, options):
            last = log.study.last_time
            if last is not None:
                record_met(log, last, at=last)  # before Ray starts: nobody has searched since
            if not log.study.finished:
                _search(space, home, folder, log, place, inputs.feature_bytes, options)
        if log.study.tainted:
            raise SharedFeaturesError(f"study {name!r} was stopped: {log.study.tainted}")
        if not log.study.finished:
            raise InterruptedStudy(
                f"interrupted: {log.study.num_ended} of {log.study.budget} trials have ended and are kept; "
                f"go on with: {options.command}"
            )
        return view(name, log.study, running=False)


def _search(
    space: Space, home: Home, folder: Path, log: EventLog, place: Place, feature_bytes: int, options: Options
) -> None:
    options.say(f"Ray: {place.sentence}")
    journal = Journal(space, log)
    with ExitStack() as stack:
        stack.callback(journal.close)
        connect(place, feature_bytes=feature_bytes, num_cpus=options.local_cpus, temp_dir=options.ray_folder)
        workers = Workers()
        stack.callback(workers.wait_until_gone)
        stack.callback(disconnect)
        signalled = stack.enter_context(stopping_on_signals(journal))
        accelerator = space.resources.accelerator_type
        cpus, gpus, concurrent = trial_resources(space, num_cpus(), num_gpus(), alive_nodes())
        for sentence in resource_sentences(space, num_gpus()):
            options.say(sentence)
        options.say(
            f"{counted(concurrent, 'trial')} at once, each with {counted(cpus, 'CPU')} and {counted(gpus, 'GPU')}; "
            f"sampler {space.sampler.name}, scheduler {space.scheduler.name}"
        )
        log.commit(
            "opened",
            pid=os.getpid(),
            host=socket.gethostname(),
            code=code_version(),
            cpus=cpus,
            gpus=gpus,
            concurrent=concurrent,
            command=options.command,
            max_retries=space.resources.max_retries,
            retry_wait_seconds=space.resources.retry_wait_seconds,
        )
        from odmt.cluster.shared_features import check_all, share
        from odmt.tuning.trial import TrialJob, threads_for

        begun = time.monotonic()
        shared = share(home, list(space.loaded_configs()), options.source.loaders)
        options.say(f"shared features loaded in {clock(time.monotonic() - begun)}")
        for sentence in room_sentences(folder, log.study, largest_checkpoint(space, shared), concurrent):
            options.say(sentence)
        runner = {"runner": options.runner} if options.runner else {}
        job = TrialJob(str(folder), shared, space.scheduler, threads_for(cpus), gpus, **runner)
        if not options.quiet:
            progress = StudyProgress(log.study, space, standing=options.standing)
            log.listeners.append(stack.enter_context(progress))
        watch = Watch(
            journal,
            slots=lambda aside: slots(alive_nodes(), cpus, gpus, accelerator, aside),
            signalled=signalled,
            workers=workers,
        )
        if not journal.stopping.is_set():
            run_loop(watch, folder, job, Reservation(cpus, gpus, concurrent, accelerator))
        if log.failure is not None:
            raise watch.failure or log.failure  # what came first: a full disk is often found by a trial
        try:
            check_all(shared)
        except SharedFeaturesError as error:
            journal.taint(f"found at the end: {error}")
        if watch.failure is not None and not log.study.tainted:
            raise watch.failure


@contextmanager
def stopping_on_signals(journal: Journal) -> Iterator[threading.Event]:
    """End the search on SIGINT and SIGTERM, and set what is yielded; a second one ends it at once."""
    signalled = threading.Event()

    def stop(number: int, frame: Any) -> None:
        del number, frame
        if signalled.is_set():
            raise KeyboardInterrupt
        signalled.set()
        journal.stopping.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signalled
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_standing(study: Study, say: Callable[[str], None]) -> None:
    if study.trials and not study.finished:
        say(
            f"going on: {study.num_ended} of {study.budget} trials have ended, {len(study.interrupted)} are continued "
            "from their checkpoints"
        )


@contextmanager
def _mirrored(log: EventLog, options: Options) -> Iterator[None]:
    """Let MLflow follow the log: all of it first, then what is committed meanwhile."""
    mirror = options.make_mirror(log.study.header) if options.make_mirror is not None else None
    if mirror is None:
        yield
        return
    listener = MirrorListener(mirror)
    try:
        listener.send_all(log.study)
        log.listeners.append(listener)
        yield
    finally:
        listener.study_ended(log.study, time.time())
        pending = mirror.close()
        if pending:
            options.say(f"MLflow: {pending} messages could not be sent; the same command sends them")
