"""Signals that stop a run: which ones, for how long, and in which thread."""

import os
import signal
import threading
import types

import pytest

from experiments import eps, stopping
from experiments.stopping import StopSignals
from ofav2_jax.run.run import StoppedError

_NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Run:
    """Stops as soon as it is told to; until then it calls `while_running`."""

    latest_checkpoint = None

    def __init__(self, while_running=lambda: None):
        self._while_running = while_running
        self._told = threading.Event()

    def request_stop(self):
        self._told.set()

    def execute(self):
        self._while_running()
        if self._told.is_set():
            raise StoppedError
        return {}


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal():
    """The signals' own handlers, also where the tests run under `nohup` or in the background of a script."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in _NUMBERS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def exits(monkeypatch):
    """The statuses with which the process would have ended at once."""
    statuses = []
    monkeypatch.setattr(stopping, "os", types.SimpleNamespace(_exit=statuses.append))
    return statuses


def handlers():
    return [signal.getsignal(number) for number in _NUMBERS]


def execute(run):
    return eps._execute(run, None, ["ofav2", "eps"], is_one_of_several=False)


@pytest.mark.parametrize("number", _NUMBERS)
def test_each_signal_stops_a_run_and_is_given_back(number, exits, capsys):
    before = handlers()
    run = Run(lambda: os.kill(os.getpid(), number))
    assert execute(run) == 128 + number
    assert f"stopped by {number.name}; last checkpoint: none yet; to go on: ofav2 eps" in capsys.readouterr().err
    assert handlers() == before and not exits


def test_signals_are_given_back_by_a_run_that_ends(monkeypatch, exits):
    monkeypatch.setattr(eps, "print_results", lambda *arguments: None)
    monkeypatch.setattr(eps, "rebuild_report", lambda *arguments: None)
    run, during, before = Run(), [], handlers()
    run._while_running = lambda: during.extend(handlers())
    run.settings = None
    assert execute(run) == 0
    assert handlers() == before and not set(during) & set(before)


def test_the_process_is_left_alone_after_a_stop_in_time(monkeypatch, exits):
    threads = []

    class Thread(threading.Thread):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            threads.append(self)

    monkeypatch.setattr(stopping.threading, "Thread", Thread)
    assert execute(Run(lambda: os.kill(os.getpid(), signal.SIGTERM))) == 143
    # The thread that would have ended the process has ended itself, long before its time.
    (thread,) = threads
    thread.join()
    assert not exits


def test_a_second_signal_ends_the_process_at_once(exits):
    class Ended(BaseException):
        pass

    def end(status):
        exits.append(status)
        raise Ended

    stopping.os._exit = end
    run = Run()
    with pytest.raises(Ended), StopSignals(run, ["x"]):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
    assert exits == [128 + signal.SIGUSR1]


def test_a_thread_leaves_the_signals_as_they_are(monkeypatch, exits):
    statuses, before = [], handlers()
    run = Run(lambda: statuses.append(handlers() == before))
    run.request_stop()
    thread = threading.Thread(target=lambda: statuses.append(execute(run)))
    thread.start()
    thread.join()
    assert statuses == [True, 143] and handlers() == before


def test_nohup_is_respected(exits):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(Run(), ["x"]) as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and not signals._received
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_is_no_error(exits, monkeypatch):
    def closed(*arguments):
        raise OSError(5, "Input/output error")

    run = Run(lambda: os.kill(os.getpid(), signal.SIGHUP))
    monkeypatch.setattr(stopping.sys, "stderr", types.SimpleNamespace(write=closed, flush=closed))
    assert execute(run) == 129
