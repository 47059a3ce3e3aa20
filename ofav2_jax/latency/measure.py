"""Times the ONNX files of a folder with onnxruntime; the same command goes on where it was stopped.

python measure.py    on the device, with numpy and onnxruntime; writes times.json beside itself
"""

import json
import os
import platform
import sys
import time
from pathlib import Path

PROVIDER = "CPUExecutionProvider"
# Of each file in each round: runs that bring it into the processor's caches, then those that are timed.
WARM_UP, RUNS = 10, 10


def device():
    """Names the device and the runtime."""
    import onnxruntime

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model", "Hardware"))]
    processor = next(filter(None, [*names, platform.processor(), platform.machine()]), "unknown")
    found = {"processor": processor, "machine": platform.machine(), "cores": os.cpu_count()}
    return {"device": found, "runtime": "onnxruntime", "version": onnxruntime.__version__, "provider": PROVIDER}


def timer(path, threads, batch_size):
    """A function that runs a file several times and returns what a run took in microseconds."""
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Idle threads of one file must not take the processor from the next one.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=[PROVIDER])
    rng, feeds = numpy.random.default_rng(0), {}
    for x in session.get_inputs():
        shape, is_image = [batch_size, *x.shape[1:]], x.type == "tensor(uint8)"
        feeds[x.name] = rng.integers(0, 256, shape, "uint8") if is_image else rng.standard_normal(shape, "float32")

    # A single thread is the one that calls: its time on the processor, without the time of others in between.
    is_alone = threads == 1 and time.get_clock_info("thread_time").resolution <= 1e-6
    clock = time.thread_time if is_alone else time.perf_counter

    def visit():
        times = []
        for _ in range(WARM_UP + RUNS):
            started = clock()
            session.run(None, feeds)
            times.append(1e6 * (clock() - started))
        # The lower quartile, because other processes only ever add to a time.
        return sorted(times[WARM_UP:])[RUNS // 4]

    return visit


def rounds(visits, times, budget, say):
    """Visits all files in turn, round by round, adds to their lists of times, and yields after each round."""
    first, started, said = len(next(iter(times.values()))), time.monotonic(), 0.0
    for done in range(first + 1, budget["max_rounds"] + 1):
        for name, visit in visits.items():
            times[name].append(visit())
        yield done
        spent = time.monotonic() - started
        each = spent / (done - first)
        affordable = first + int(budget["seconds"] / max(each, 1e-9))
        total = min(max(affordable, budget["min_rounds"]), budget["max_rounds"])
        if done >= total:
            return
        if spent > said:
            said = spent + 5
            say(f"round {done} of {total}, {(total - done) * each:.0f} s left")


def earlier(path, content):
    """What a measurement left that was stopped, or has ended."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if {**found, **content} == found and [*found["us"]] == content["plan"]["files"] and "is_complete" in found:
            return found
    except (ValueError, TypeError, LookupError):
        pass
    raise ValueError(f"{path} is damaged, or of another device or plan; remove it to begin anew")


def main(folder, say=print, make_timer=timer):
    """Times the files that plan.json names; returns what times.json then holds."""
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / 'plan.json'} is damaged: {error}") from error
    path, content = folder / "times.json", {"format": "ofav2_jax.times/1", "plan": plan, **device()}
    times = {name: [] for name in plan["files"]}
    if path.exists():
        found = earlier(path, content)
        if found["is_complete"]:
            return found
        times = found["us"]

    def save(is_complete):
        content.update(is_complete=is_complete, us=times)
        # A name of its own, should this script run twice at once.
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(path)

    say(f"loading {len(times)} files")
    visits = {name: make_timer(folder / f"{name}.onnx", plan["threads"], plan["batch_size"]) for name in times}
    for _ in rounds(visits, times, plan["budget"], say):
        save(False)
    save(True)
    return content


if __name__ == "__main__":
    try:
        main(Path(__file__).parent, lambda line: print(line, flush=True))
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
    print(f"written to {Path(__file__).with_name('times.json')}")
