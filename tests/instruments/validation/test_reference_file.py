"""A reference in a file stands for the model that wrote it."""

from typing import NamedTuple

import numpy as np
import pytest

from gradreg_core.errors import DataFileError, InputError, UnsupportedError
from gradreg_core.inputs import Inputs
from gradreg_validation import save_reference, validate
from instruments.validation.ports import JAX_LAYERS, Net, X, Y, jax_port, torch


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "reference.npz"
    save_reference(file, Net(), X, Y)
    return file


@pytest.mark.slow
def test_a_port_is_compared_with_the_file_alone(path):
    apply, params, stages = jax_port(Net())
    report = validate(
        path, (apply, params), mapping="proposed", layers=JAX_LAYERS, activations=(None, stages), repeats=2
    )
    assert report.ok, report
    assert len(report.rows) == 10
    assert [row.agrees for row in report.layers] == [True] * 4
    assert report.backends == ("torch, in reference.npz", "jax")
    assert report.versions["torch (file)"] == torch.__version__


def test_a_mistake_is_named_from_the_file(path):
    report = validate(Net(eps=1e-3), path, repeats=1)
    assert report.first_divergence == "norm"
    assert "In the first model: eps=0.001; in the second: eps=1e-05." in report.cause


class Nested(torch.nn.Module):
    """Two outputs of nested arguments, of which one is halved if `how` says so."""

    def __init__(self, how=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right, self.how = torch.nn.Linear(5, 4), torch.nn.Linear(2, 4), how

    def forward(self, x, options, scale):
        h = self.left(x) * self.right(options["more"][0]) * scale[:, None]
        return {"logits": h[:, :3], "aux": (torch.tanh(h) * self.how,)}


def test_nested_inputs_and_several_outputs_keep_their_structure(tmp_path):
    x = Inputs(X, {"more": [X[:, :2]], "name": "a"}, scale=X[:, 0], wrt=["0", "1.more"])
    save_reference(tmp_path / "nested.npz", Nested(), x)
    assert validate(tmp_path / "nested.npz", Nested(), repeats=1).ok
    report = validate(tmp_path / "nested.npz", Nested(0.5), repeats=1)
    assert "outputs['aux.0'] of the second model is that of the first times 0.5" in report.cause
    save_reference(tmp_path / "logits.npz", Nested(), x, Y, outputs="logits")
    assert validate(tmp_path / "logits.npz", Nested(0.5), repeats=1).ok
    with pytest.raises(UnsupportedError, match=r"x holds Pair, which a file cannot hold: give dicts, lists, tuples"):
        save_reference(tmp_path / "pair.npz", lambda pair: pair.one, Pair(X), backend="torch")


class Pair(NamedTuple):
    one: np.ndarray


def test_outputs_alone_are_compared_too(tmp_path):
    outputs = Net()(torch.tensor(X)).detach().numpy()
    np.savez(tmp_path / "onnx.npz", x=X, outputs=outputs)
    report = validate(tmp_path / "onnx.npz", Net(), repeats=1)
    assert report.ok
    assert [row.quantity for row in report.rows] == ["outputs"]
    assert len(report.notes) == 2
    assert "one side is a file without it: penalty" in report.notes[0]
    assert report.notes[1] == "the file has no parameters, gradients and layers; save_reference writes one that has"


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # PyTorch's exporter
def test_outputs_of_onnx_runtime_are_compared(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.onnx.export(Net().eval(), (torch.tensor(X),), tmp_path / "net.onnx", input_names=["x"], verbose=False)
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    np.savez(tmp_path / "onnx.npz", x=X, outputs=session.run(None, {"x": X})[0])
    assert validate(tmp_path / "onnx.npz", Net(), repeats=1).ok
    assert not validate(tmp_path / "onnx.npz", Net(gelu="tanh"), repeats=1).ok


def test_what_is_no_reference_is_refused(path, tmp_path):
    with pytest.raises(InputError, match="x is in the file"):
        validate(path, Net(), X)
    with pytest.raises(InputError, match="both models are files"):
        validate(path, path)
    np.savez(tmp_path / "bare.npz", x=X)
    with pytest.raises(DataFileError, match="expected an array named outputs, got x"):
        validate(tmp_path / "bare.npz", Net())
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataFileError, match=r"text\.npz: "):
        validate(tmp_path / "text.npz", Net())
