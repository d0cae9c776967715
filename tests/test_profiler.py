"""The profiler: what it records, by which layer, what its files hold, and that nothing is there when off."""

import csv
import io
import itertools
import json
import re
import threading
from html.parser import HTMLParser

import numpy as np
import pytest

import fastconv
from fastconv import _core, cli, layers, optim, plan
from fastconv import functional as F
from fastconv.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Residual, Sequential
from fastconv.losses import CrossEntropyLoss
from fastconv.profiler import (
    advice,
    compare,
    counters,
    drawing,
    labels,
    operations,
    peaks,
    rows,
    terminal,
    workload,
)
from fastconv.profiler.operations import Convolution

# What _core has besides kernels.
NOT_KERNELS = {"isa", "available_isas", "set_isa", "get_num_threads", "limit_threads", "set_default_threads",
               "process_info", "memory_stats", "trim", "array_of", "array_of_out", "conv2d_choices", "empty",
               "fills_its_memory", "multiply_adds", "time_phases", "clock_ns", "calls_from_c"}


@pytest.fixture(autouse=True)
def quick_peaks(monkeypatch):
    """Peaks that take no time to measure, but where a test measures them."""
    monkeypatch.setattr(peaks, "measure", lambda threads: peaks.Peaks(threads, _core.isa(), 100e9, 10e9))


def network(rng):
    return Sequential({
        "conv1": Conv2d(3, 8, 3, padding=1, rng=rng), "relu": ReLU(), "pool": MaxPool2d(2),
        "block": Residual(Sequential(Conv2d(8, 8, 3, padding=1, rng=rng))),
        "flatten": Flatten(), "fc": Linear(8 * 4 * 4, 5, rng=rng)})


STEPS = ["conv1", "pool", "block.body.0", "flatten", "fc"]  # of its plan: "flatten" copies


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture
def profiled(rng):
    """A profile of two inferences by a plan."""
    run = network(rng).eval().compile((2, 3, 8, 8))
    x = floats(rng, 2, 3, 8, 8)
    with fastconv.profile("two turns") as p:
        run(x)
        run(x)
    return p


# ---- off ----------------------------------------------------------------------------------------------


def what_is_swapped():
    methods = [(layer, name) for layer in vars(layers).values()
               if isinstance(layer, type) and issubclass(layer, layers.Layer) and layer is not layers.Layer
               for name in ("forward", "backward") if name in vars(layer)]
    return [getattr(_core, op) for op in operations.names()] + [
        vars(owner)[name] for owner, name in [*methods, (plan.Plan, "_run"), (plan.Planner, "step")]]


def test_off_everything_is_as_it_was(rng):
    before = what_is_swapped()
    with fastconv.profile():
        swapped = what_is_swapped()
        with fastconv.profile():
            F.relu(floats(rng, 4))
        assert what_is_swapped() == swapped
        assert all(new is not old for new, old in zip(swapped, before, strict=True))
    assert all(new is old for new, old in zip(what_is_swapped(), before, strict=True))


def test_off_again_after_an_error():
    before = what_is_swapped()
    with pytest.raises(TypeError), fastconv.profile() as p:
        F.relu("x")
    assert what_is_swapped() == before
    assert p.records == []
    assert p.table() == "no kernel was called"


def test_a_profile_opens_once(profiled):
    with pytest.raises(RuntimeError, match="opened once"), profiled:
        pass


def test_every_function_of_core_is_a_kernel_or_known_not_to_be(rng):
    functions = {name for name, value in vars(_core).items()
                 if callable(value) and not isinstance(value, type) and not name.startswith("__")
                 and value.__module__ == "fastconv._core"}
    assert functions == {*operations.names(), *NOT_KERNELS}


# ---- what is recorded -----------------------------------------------------------------------------------


def test_a_call_is_recorded_with_all_that_is_asked_of_it(rng):
    x, weight = floats(rng, 2, 8, 6, 5), floats(rng, 4, 8, 3, 3)
    with fastconv.num_threads(1), fastconv.profile() as p:
        F.conv2d(x, weight, padding=1)
    (record,) = p.records
    assert (record.op, record.layer, record.layout, record.threads) == ("conv2d", "", "NCHW", 1)
    assert record.isa == fastconv.isa()
    assert record.shapes == "2x8x6x5 -> 4x8x3x3 -> 2x4x6x5"
    assert record.flops == 2 * 2 * 4 * 6 * 5 * 8 * 9
    assert record.bytes == 4 * (x.size + weight.size + 2 * 4 * 6 * 5)
    assert record.seconds > 0
    assert record.start >= 0
    assert record.thread == threading.get_ident()
    assert record.convolution == Convolution("forward", x.shape, weight.shape, (1, 1), ((1, 1), (1, 1)),
                                             (1, 1), 1)


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
@pytest.mark.parametrize("direction", ["conv2d", "conv2d_backward_input", "conv2d_backward_weight"])
def test_phases_of_convolutions(direction, algorithm, rng):
    x, weight = floats(rng, 2, 24, 12, 12), floats(rng, 40, 24, 3, 3)
    grad = floats(rng, 2, 40, 12, 12)
    arguments = {"conv2d": (x, weight, None), "conv2d_backward_input": (grad, weight, x.shape),
                 "conv2d_backward_weight": (grad, x, weight.shape)}[direction]
    with fastconv.profile() as p:
        getattr(F, direction)(*arguments, padding=1, algorithm=algorithm)
    (record,) = p.records
    assert record.algorithm == algorithm
    assert set(record.phases) <= set(fastconv.profiler.PHASES)
    assert record.phases["multiply"] > 0
    assert ("transform" in record.phases) == (algorithm == "winograd")
    assert "store" in record.phases or algorithm == "direct"  # whose tiles may store results themselves
    assert record.phases.get("copy", 0) > 0  # the arrays are NCHW
    assert sum(record.phases.values()) <= record.threads * record.seconds


def test_an_addend_is_work_too(rng):
    x, weight = floats(rng, 2, 8, 6, 5), floats(rng, 4, 8, 3, 3)
    with fastconv.profile() as p:
        for addend in (None, x):
            F.conv2d_backward_input(floats(rng, 2, 4, 6, 5), weight, x.shape, padding=1, addend=addend)
    alone, added = p.records
    assert (added.flops - alone.flops, added.bytes - alone.bytes) == (x.size, x.nbytes)


def test_auto_is_recorded_as_what_it_takes(rng):
    x, weight = floats(rng, 1, 64, 28, 28), floats(rng, 64, 64, 3, 3)
    with fastconv.profile() as p:
        F.conv2d(x, weight, padding=1)
    assert p.records[0].algorithm == fastconv.explain(x.shape, weight.shape, padding=1)[0].algorithm


@pytest.mark.parametrize(("shape", "axes", "layout"), [
    ((2, 3, 4, 5), (0, 1, 2, 3), "NCHW"), ((2, 4, 5, 3), (0, 3, 1, 2), "NHWC"),
    ((2, 1, 1, 8), (0, 3, 1, 2), "NHWC"), ((3, 2, 4, 5), (1, 0, 2, 3), "strided")])
def test_layouts(shape, axes, layout, rng):
    with fastconv.profile() as p:
        F.relu(floats(rng, *shape).transpose(axes))
    assert p.records[0].layout == layout


def test_layers_of_a_plan_are_named(profiled):
    names = [(record.layer, record.op) for record in profiled.records]
    assert names[:len(names) // 2] * 2 == names
    assert names[:len(names) // 2] == [("conv1", "conv2d"), ("pool", "max_pool2d"),
                                       ("block.body.0", "conv2d"), ("flatten", "copy"), ("fc", "linear")]


def test_layers_of_a_training_step_are_named(rng):
    model, x = network(rng), floats(rng, 2, 3, 8, 8)
    loss, optimizer = CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1)
    with fastconv.profile() as p:
        loss(model(x), np.array([0, 1]))
        model.backward(loss.backward())
        optimizer.step()
    found = {(record.layer, record.op) for record in p.records}
    for layer in ("conv1", "block.body.0"):
        assert {(layer, "conv2d"), (layer, "conv2d_backward_input"),
                (layer, "conv2d_backward_weight")} <= found
    assert {("pool", "max_pool2d_backward"), ("fc", "linear_backward_weight"), ("", "sgd_step")} <= found
    names = {name for name, _ in model.named_modules()}
    assert {layer for layer, _ in found} <= names | {""}


def test_a_layer_called_alone_has_the_name_of_its_class(rng):
    with fastconv.profile() as p:
        Conv2d(3, 4, 1, rng=rng)(floats(rng, 1, 3, 2, 2))
    assert [record.layer for record in p.records] == ["Conv2d"]


def test_steps_of_layers_without_a_plan_are_named(rng):
    class Twice(layers.Layer):
        def forward(self, x):
            return self._save(F.add(x, x))

    run = Sequential({"conv": Conv2d(3, 4, 1, rng=rng), "twice": Twice()}).eval().compile((1, 3, 2, 2))
    with fastconv.profile() as p:
        run(floats(rng, 1, 3, 2, 2))
    assert [(record.layer, record.op) for record in p.records] == [("conv", "conv2d"), ("twice", "add")]


def test_a_plan_made_in_a_profile_is_recorded_then_and_not_later(rng):
    x = floats(rng, 2, 3, 8, 8)
    with fastconv.profile() as p:
        run = network(rng).eval().compile(x.shape)
        run(x)
    count = len(p.records)
    assert [record.op for record in p.records][-1] == "linear"
    assert not any(isinstance(function, _core.Timed) for function, _ in run._steps)
    run(x)
    assert len(p.records) == count


def test_records_of_a_plan_follow_the_layout_of_its_images(rng):
    run, x = network(rng).eval().compile((2, 3, 8, 8)), floats(rng, 2, 3, 8, 8)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with fastconv.profile() as p:
        for images in (x, last, x):
            run(images)
    first = p.records[::len(p.records) // 3]
    assert [record.layout for record in first] == ["NCHW", "NHWC", "NCHW"]


def test_profiled_results_have_the_same_bits(rng):
    model, x = network(rng).eval(), floats(rng, 2, 3, 8, 8)
    expected = model(x)
    with fastconv.profile():
        y = model(x)
    assert np.array_equal(y, expected)


def test_threads_of_python_are_recorded(rng):
    x = floats(rng, 4, 8)
    with fastconv.profile() as p:
        threads = [threading.Thread(target=lambda: [F.relu(x) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(p.records) == 200
    assert len({record.thread for record in p.records}) >= 1


def test_profiles_nest(rng):
    x = floats(rng, 4)
    with fastconv.profile() as outer:
        F.relu(x)
        with fastconv.profile() as inner:
            F.relu(x)
        F.relu(x)
    assert (len(outer.records), len(inner.records)) == (3, 1)


def test_keywords_and_nothing_kept_alive(rng):
    x = floats(rng, 2, 3, 4, 4)
    with fastconv.profile() as p:
        _core.activation(_core.RELU, x=x, out=None)
    assert p.records[0].shapes == "2x3x4x4"
    assert not any(isinstance(value, np.ndarray) for call in p._calls for value in call[9])


def test_arrays_of_others_are_recorded(rng):
    x = floats(rng, 2, 3, 4, 4)
    with fastconv.profile() as p:
        F.relu(memoryview(x))
    assert p.records[0].shapes == "2x3x4x4"


def test_every_kernel_has_its_work(rng):
    """Through a training of everything there is, and what that leaves out."""
    x, image = floats(rng, 3, 4, 5), floats(rng, 2, 4, 6, 6)
    model = Sequential(layers.Conv2d(4, 4, 3, padding=1), layers.BatchNorm2d(4), layers.AvgPool2d(2),
                       layers.ReLU(), layers.LocalResponseNorm(3), layers.MaxPool2d(3), Flatten(),
                       Linear(4, 3))
    with fastconv.profile() as p:
        gradient = model(image)
        model.backward(gradient)
        optim.SGD(model.parameters(), 0.1, momentum=0.9).step()
        optim.Adam(model.parameters(), 0.1).step()
        optim.clip_grad_norm(model.parameters(), 1.0)
        F.softmax(x)
        F.concat([image, image])
        F.add(image, image)
        F.sigmoid_backward(image, F.sigmoid(image))
        F.prepare_conv2d(floats(rng, 32, 32, 3, 3), (1, 32, 8, 8), padding=1)
        F.compress_weight(floats(rng, 128, 8))
        _core.copy(image, np.empty_like(image))
        layer = layers.LSTM(5, 6)
        layer.backward(layer(x)[0])
    missing = set(operations.names()) - {record.op for record in p.records}
    assert missing == set()
    for record in p.records:
        assert record.bytes > 0, record
        assert record.flops >= 0, record


# ---- rows -----------------------------------------------------------------------------------------------


def test_rows_add_up(profiled):
    assert sum(row.share for row in profiled.rows) == pytest.approx(1)
    assert sum(row.calls for row in profiled.rows) == len(profiled.records)
    assert sum(row.total for row in profiled.rows) == pytest.approx(profiled.kernel_seconds)
    for row in profiled.rows:
        assert row.calls == 2
        assert row.best <= row.median
        assert row.intensity == row.flops / row.bytes
        if row.phases:
            assert sum(row.phase_shares().values()) == pytest.approx(1)


def test_of_roof_takes_the_lower_roof():
    machine = peaks.Peaks(1, "any", 100e9, 10e9)
    assert machine.roof(5) == 50e9
    assert machine.roof(50) == 100e9

    def row(flops, moved):
        return rows.Row("conv2d", "", "", "", "direct", 1, "any", flops, moved, [1e-3], {}, {}, None,
                        peaks=machine)

    assert row(50e6, 10e6).of_roof == pytest.approx(1)
    assert row(50e6, 10e6).bound == "memory"
    assert row(50e6, 1e6).of_roof == pytest.approx(0.5)
    assert row(50e6, 1e6).bound == "compute"
    assert row(0, 5e6).of_roof == pytest.approx(0.5)


def test_last_lap_is_the_last_turn(profiled):
    assert rows.last_lap(profiled.records) == profiled.records[len(profiled.records) // 2:]
    assert rows.last_lap([]) == []


def test_peaks_are_measured(monkeypatch):
    monkeypatch.undo()
    measured = peaks.measure(1)
    assert peaks.measure(1) is measured
    assert measured.flops > 1e8
    assert measured.bandwidth > 1e7
    assert _core.multiply_adds(1000) > 0


def advice_of(shapes, layout="NHWC", seconds=1.0, phases=None):
    x_shape, weight_shape = shapes
    one = Convolution("forward", x_shape, weight_shape, (1, 1), ((0, 0), (0, 0)), (1, 1),
                      x_shape[1] // weight_shape[1])
    machine = peaks.Peaks(2, "any", 100e9, 10e9)
    row = rows.Row("conv2d", "conv", "", layout, "direct", 2, "any", 10**9, 10**6, [seconds], phases or {},
                   {}, one, share=1.0, peaks=machine)

    class OfMachine:
        peaks = machine

    return advice.advised([row], OfMachine)[0].advice


IMAGES = (16, 64, 56, 56)


def test_advice():
    assert advice_of((IMAGES, (64, 64, 3, 3)), seconds=0.011) == ""  # near the roof
    assert "C=3: bound by sums of 147 terms" in advice_of(((16, 3, 224, 224), (64, 3, 7, 7)))
    assert "depthwise" in advice_of((IMAGES, (64, 1, 3, 3)))
    assert "49 pixels" in advice_of(((1, 512, 7, 7), (512, 512, 1, 1)))
    assert "sums of 64 terms" in advice_of((IMAGES, (256, 64, 1, 1)))
    assert advice_of((IMAGES, (64, 64, 3, 3)), "NCHW", phases={"copy": 0.62, "multiply": 1.38}) == (
        "NCHW input: 31 % in conversion; keep channels-last")
    assert "wait" in advice_of((IMAGES, (64, 64, 3, 3)), phases={"wait": 0.8, "multiply": 1.2})


# ---- output ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 200])
def test_table_fits(profiled, width):
    table = profiled.table(width=width)
    body = table.split("\n\n")[1].splitlines()
    assert max(map(len, body)) <= width
    assert body[0].split()[0] == "layer"
    assert [line.split()[0] for line in body[2:]] == STEPS
    assert "100 GFLOP/s" in table


def test_table_of_the_largest(profiled):
    lines = profiled.table(most=2, width=120).splitlines()
    assert any(line.startswith("and 3 more of together ") for line in lines)


def test_table_by_rich(profiled, monkeypatch):
    pytest.importorskip("rich")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    file = Terminal()
    monkeypatch.setenv("COLUMNS", "100")
    terminal.show(profiled, None, file)
    assert "block.body.0" in file.getvalue()


def test_json(profiled, tmp_path):
    text = profiled.to_json(tmp_path / "profile.json")
    assert (tmp_path / "profile.json").read_text() == text
    loaded = json.loads(text)
    assert set(loaded) == {"format", "machine", "runs"}
    assert loaded["machine"]["isa"] == fastconv.isa()
    (run,) = loaded["runs"]
    assert len(run["records"]) == 2 * len(STEPS)
    assert [row["layer"] for row in run["rows"]] == STEPS
    assert run["peaks"]["flops_per_second"] == 100e9
    for row in run["rows"]:
        assert {"best_seconds", "median_seconds", "share", "gflops_per_second", "bytes", "intensity",
                "of_roof", "algorithm", "phases", "alternatives", "naive_seconds", "peers",
                "advice"} <= set(row)


def test_csv(profiled):
    profiled.rows[0].peers = {"torch": 0.5}
    table = list(csv.DictReader(io.StringIO(profiled.to_csv())))
    assert [row["layer"] for row in table] == STEPS
    assert sum(float(row["share"]) for row in table) == pytest.approx(1)
    assert [row["torch_seconds"] for row in table] == ["0.5", "", "", "", ""]


def test_chrome_trace(profiled):
    events = json.loads(profiled.chrome_trace())["traceEvents"]
    calls = [event for event in events if event["ph"] == "X"]
    assert [event["name"] for event in calls] == STEPS * 2
    for event, after in itertools.pairwise(calls):
        assert event["ts"] + event["dur"] <= after["ts"] + 1e-3  # one thread: none lies in another
        assert {"pid", "tid", "cat", "args"} <= set(event)


class Page(HTMLParser):
    """The tags of a page, checked to be closed in order, and its links."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "action")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_needs_nothing_else(profiled, tmp_path):
    text = profiled.html(tmp_path / "profile.html")
    assert (tmp_path / "profile.html").read_text(encoding="utf-8") == text
    page = Page(text)
    assert page.open == []
    assert page.links == []
    assert not re.search(r"https?:|@import|url\(", text)
    assert {"svg", "table", "script", "style"} <= set(page.tags)
    assert page.tags.count("tr") == 1 + len(profiled.rows)
    assert page.tags.count("rect") == len(STEPS)  # the last turn
    assert "NaN" not in text


def test_html_escapes(rng):
    with fastconv.profile("<script>alert(1)</script>") as p:
        F.relu(floats(rng, 4))
    assert "<script>alert" not in p.html()


def test_html_of_nothing():
    with fastconv.profile() as p:
        pass
    assert Page(p.html()).open == []
    assert json.loads(p.to_json())["runs"][0]["records"] == []


def test_roofline_is_a_picture(profiled, tmp_path):
    pytest.importorskip("matplotlib")
    profiled.roofline(tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_roofline_keeps_marks_inside(profiled):
    svg = drawing.roofline(profiled, 360, 330)
    for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg):
        assert 0 < float(x) < 360
        assert 0 < float(y) < 330


def test_labels_do_not_meet():
    marks = [("name", 60 + 20 * i, 100 + 12 * i, 4) for i in range(8)]
    placed = labels.place(marks, (0, 0, 300, 300), [(0, 0, 300, 95)], 8, (6, 10))
    assert len(placed) > 1
    boxes = [(left, base - 10, left + 24, base + 2.5) for _, left, base in placed]
    for number, box in enumerate(boxes):
        others = [*boxes[:number], *boxes[number + 1:], (0, 0, 300, 95)]
        others += [(x - r, y - r, x + r, y + r) for _, x, y, r in marks]
        assert not any(labels._meet(box, other) for other in others)


# ---- comparisons ----------------------------------------------------------------------------------------

SMALL = Convolution("forward", (2, 8, 7, 6), (4, 8, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)


def problem(direction):
    return SMALL._replace(direction=direction)


@pytest.mark.parametrize("direction", ["forward", "backward_input", "backward_weight"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_peers_compute_the_same(direction, layout):
    threads = pytest.importorskip("torch").get_num_threads()  # a peer sets those of its process
    from fastconv.profiler import peer

    one = problem(direction)
    expected = compare._call(F, one, *compare.arrays(one, layout))()
    found = peer.torch_call(one, layout, threads)().numpy()
    terms = 2 * 7 * 6 if direction == "backward_weight" else 8 * 9
    assert np.allclose(found, expected, rtol=0, atol=2**-20 * terms)
    if direction == "forward":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
        expected = compare._call(F, one, *compare.arrays(one, "NCHW"))()  # what it takes
        found = peer.onnxruntime_call(one, layout, threads)().numpy()
        assert np.allclose(found, expected, rtol=0, atol=2**-20 * terms)


def test_peers_are_asked_in_their_own_process(profiled):
    pytest.importorskip("torch")
    answer = compare.peers(profiled.rows, 1, seconds=1e-6, libraries=("torch", "no_such_library"))
    assert answer["torch"][0].isdigit()
    assert answer["no_such_library"] == "not installed"
    for row in profiled.rows:
        assert (row.peers.get("torch", 0) > 0) == (row.convolution is not None)


def test_all_algorithms_and_naive(profiled):
    compare.algorithms(profiled.rows, 1, True, seconds=1e-6)
    compare.naive(profiled.rows)
    for row in profiled.rows:
        assert set(row.alternatives) == (set() if row.convolution is None else {"direct", "winograd"})
        assert (row.naive is not None) == (row.convolution is not None)
    assert "winograd" in profiled.table(width=80)
    assert "naive" in profiled.table(width=80)
    assert "winograd ms" in profiled.html()


# ---- counters -------------------------------------------------------------------------------------------


def test_counters_or_why_not(rng):
    with fastconv.profile(counters=True) as p:
        F.relu(floats(rng, 100, 1000))
    (record,) = p.records
    if p.counters_note:
        assert "counter" in p.counters_note
        assert record.counters == {}
        assert p.counters_note in p.table()
    else:
        assert set(record.counters) == set(counters.HARDWARE)


def test_software_events_are_counted(rng, monkeypatch):
    try:
        counters.Counters(counters.SOFTWARE).close()
    except counters.Unavailable as error:
        pytest.skip(str(error))
    monkeypatch.setattr(counters, "HARDWARE", counters.SOFTWARE)
    with fastconv.num_threads(1), fastconv.profile(counters=True) as p:
        F.relu(floats(rng, 1000, 1000))
    assert p.records[0].counters["task_clock_ns"] > 0
    assert "task clock ns" in p.html()


def test_counters_say_why_there_are_none(monkeypatch):
    monkeypatch.setattr(counters.platform, "machine", lambda: "pdp11")
    with fastconv.profile(counters=True) as p:
        pass
    assert p.counters_note == "hardware counters need Linux on x86_64 or aarch64"


# ---- the command ----------------------------------------------------------------------------------------


def test_convolutions_in_words():
    assert workload.parse("N16 C64 H56 K32 R3 p1") == {
        "N": 16, "C": 64, "H": 56, "W": 56, "K": 32, "R": 3, "S": 3, "p": 1, "s": 1, "d": 1, "g": 1}


@pytest.mark.parametrize(("text", "message"), [
    ("C64 H56 R3", "needs K"), ("C64 C64", "'C64'"), ("C64 H56 K8 R0", "must be positive"), ("X3", "'X3'"),
    ("C64 H-1", "'H-1'")])
def test_wrong_words(text, message):
    with pytest.raises(ValueError, match=message):
        workload.parse(text)


def test_command_on_a_network(capsys, tmp_path):
    assert cli.main(["profile", "lenet5", "--batch", "2", "--threads", "1,2", "--repeat", "2", "--output",
                     str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.count("lenet5, inference, 2x1x32x32 NHWC") == 2
    assert "best of 2 turns" in out
    loaded = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert [run["peaks"]["threads"] for run in loaded["runs"]] == [1, 2]
    for run in loaded["runs"]:
        assert len(run["laps_seconds"]) == 2
        assert {row["calls"] for row in run["rows"]} == {2}
    for name in ("profile.html", "profile.csv", "trace.json"):
        assert (tmp_path / "out" / name).stat().st_size


def test_command_on_a_training(capsys):
    assert cli.main(["profile", "lenet5", "--train", "--layout", "nchw", "--repeat", "1"]) == 0
    out = capsys.readouterr().out
    assert "conv2d dw" in out
    assert "1x1x32x32 NCHW" in out


def test_command_on_a_convolution(capsys):
    assert cli.main(["profile", "--conv", "N2 C8 H9 K8 R3 p1", "--all-algorithms", "--naive", "--repeat",
                     "1"]) == 0
    out = capsys.readouterr().out
    assert "winograd" in out.splitlines()[3]
    assert "naive" in out.splitlines()[3]


@pytest.mark.parametrize("arguments", [[], ["lenet5", "--conv", "C1 H1 K1 R1"], ["resnet19"],
                                       ["--conv", "C1"], ["lenet5", "--layout", "chwn"]])
def test_command_refuses(arguments, capsys):
    assert cli.main(["profile", *arguments]) == 2
    assert capsys.readouterr().err.startswith("fastconv")


def test_command_on_an_onnx_file(tmp_path, capsys, rng):
    pytest.importorskip("onnx")
    onnx = pytest.importorskip("fastconv.onnx")
    onnx.save(network(rng).eval(), tmp_path / "network.onnx", (1, 3, 8, 8))
    assert cli.main(["profile", str(tmp_path / "network.onnx"), "--batch", "2", "--repeat", "1"]) == 0
    assert "2x3x8x8" in capsys.readouterr().out


def test_networks_by_name():
    assert workload.network("lenet1").title.startswith("lenet1, inference, 1x1x28x28")
    with pytest.raises(ValueError, match="name must be one of"):
        workload.network("resnet19")
