"""Files of weights and checkpoints: the same bits back, never half a file, damage is noticed."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from script import run_script

from fastconv import checkpoint
from fastconv.layers import Linear

pytest.importorskip("safetensors")


def training(fill=0.5, size=3):
    """A state with every kind of value that a training has."""
    weights = np.full((size, 4), fill, np.float32)
    return {
        "model": {"fc.weight": weights, "bn.num_batches_tracked": np.array(7)},
        "optimizer": {"lr": 0.1, "nesterov": False, "0.step": np.int64(3), "0.exp_avg": weights.T},
        "schedule": None, "options": {"seed": 3, "data": "digits"},
        "shuffle": np.random.default_rng(1).bit_generator.state,
        "layers": {"drop": np.random.Generator(np.random.MT19937(5)).bit_generator.state},
        "epoch": 2, "totals": {"loss": 0.1 + 0.2}, "history": [{"epoch": 1, "test_loss": None}],
    }


def assert_same(a, b):
    assert type(a) is type(b) or isinstance(a, np.generic)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    else:
        assert a == b


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def test_weights_come_back_bit_for_bit(path, rng):
    contiguous = rng.standard_normal((4, 3, 2, 2)).astype(np.float32)
    state = {"contiguous": contiguous, "transposed": contiguous.transpose(3, 1, 2, 0),
             "gaps": contiguous[::2],
             "nan": np.array([0x7FC0DEAD, 0x80000000], np.uint32).view(np.float32), "scalar": np.array(7),
             "empty": np.zeros((0, 3), np.float32)}
    checkpoint.save_weights(path, state, {"model": "lenet5", "accuracy": 0.1})
    loaded, metadata = checkpoint.load_weights(path)
    assert_same(state, loaded)
    assert metadata == {"model": "lenet5", "accuracy": 0.1}


def test_weights_of_others_are_read(path, rng):
    state = {"conv1.weight": rng.standard_normal((2, 1, 3, 3)).astype(np.float32)}
    from safetensors.numpy import save_file
    save_file(state, path, {"format": "pt"})
    loaded, metadata = checkpoint.load_weights(path)
    assert_same(state, loaded)
    assert metadata == {}


def test_torch_reads_the_weights(path, rng):
    torch_files = pytest.importorskip("safetensors.torch")
    pytest.importorskip("torch")
    weight = rng.standard_normal((5, 4, 3, 2)).astype(np.float32).transpose(1, 0, 3, 2)
    checkpoint.save_weights(path, {"weight": weight})
    assert np.array_equal(torch_files.load_file(path)["weight"].numpy(), weight)


def test_layers_load_the_weights(path):
    source, target = Linear(3, 2), Linear(3, 2)
    checkpoint.save_weights(path, source.state_dict())
    assert target.load(path) == ([], [])
    assert_same(dict(target.state_dict()), dict(source.state_dict()))
    checkpoint.save_weights(path, {"weight": source.weight.data, "scale": np.ones(2, np.float32)})
    with pytest.raises(ValueError, match=r"file\.safetensors: .* missing: bias; unexpected: scale"):
        target.load(path)
    assert target.load(path, strict=False) == (["bias"], ["scale"])


def test_training_comes_back_bit_for_bit(path):
    checkpoint.save_training(path, training())
    assert_same(training(), checkpoint.load_training(path))


def test_a_checkpoint_serves_as_weights(path):
    checkpoint.save_training(path, training())
    state, options = checkpoint.load_weights(path)
    assert_same(training()["model"], state)
    assert options == {"seed": 3, "data": "digits"}


def test_equal_weights_give_equal_files(path):
    """In every process: hash tables with random seeds must not order the file."""
    write = f"""
        import numpy as np, fastconv.checkpoint
        state = {{name: np.ones(3, np.float32) for name in "edcba"}}
        fastconv.checkpoint.save_weights({str(path)!r}, state, dict.fromkeys("uvwxyz", 1))
    """
    run_script(write)
    first = path.read_bytes()
    run_script(write)
    assert path.read_bytes() == first


def test_hostile_files_are_noticed(path):
    """The length of the header is the file's first 8 bytes."""
    for size in (0, 2**31, 2**64 - 1):
        path.write_bytes(size.to_bytes(8, "little") + b"{}")
        with pytest.raises(ValueError, match="damaged or not a safetensors file"):
            checkpoint.load_weights(path)


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.99])
def test_truncated_files_are_noticed(path, share):
    checkpoint.save_training(path, training(size=100))
    contents = path.read_bytes()
    path.write_bytes(contents[:int(share * len(contents))])
    for load in (checkpoint.load_weights, checkpoint.load_training):
        with pytest.raises(ValueError, match=r"file\.safetensors is damaged or not a safetensors file"):
            load(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"model": {"array": "gone"}}', '{"model": {}}'])
def test_damaged_metadata_is_noticed(path, text):
    from safetensors.numpy import save_file
    save_file({}, path, {"fastconv.training": text})
    with pytest.raises(ValueError, match=r"file\.safetensors .* damaged"):
        checkpoint.load_training(path)


def test_weights_are_no_checkpoint(path):
    checkpoint.save_weights(path, {"weight": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="holds weights but no checkpoint"):
        checkpoint.load_training(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(FileNotFoundError, match=r"file\.safetensors"):
        checkpoint.load_weights(path)


def test_a_missing_package_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r'pip install "fastconv\[train\]"'):
        checkpoint.save_weights(path, {})


def test_kill_while_writing_leaves_a_whole_checkpoint(path, rng):
    """The file is one of the two states that are written in turn, whenever the writer is killed."""
    checkpoint.save_training(path, training(0, size=100_000))
    writer = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from fastconv import checkpoint
        from test_checkpoint import training
        states = [training(fill, size=100_000) for fill in (0, 1)]
        print("writing", flush=True)
        while True:
            for state in states:
                checkpoint.save_training({str(path)!r}, state)
    """)
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-P", "-c", writer], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "writing\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.01, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        state = checkpoint.load_training(path)
        assert_same(training(state["model"]["fc.weight"][0, 0], size=100_000), state)


def test_options_must_be_the_same():
    saved = {"seed": 1, "data": "digits"}
    checkpoint.require_same_options(saved, {"seed": 1})
    with pytest.raises(ValueError, match="data is 'mnist', but the checkpoint was made with 'digits'"):
        checkpoint.require_same_options(saved, {"seed": 1, "data": "mnist"})
    with pytest.raises(ValueError, match=r"momentum is 0\.9, but the checkpoint knows no such option"):
        checkpoint.require_same_options(saved, {"momentum": 0.9})
