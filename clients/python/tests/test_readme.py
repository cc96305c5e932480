"""The READMEs' Python examples do what they say: each that is a whole program runs against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = Path(__file__).resolve().parents[1]
READMES = [CLIENT / "README.md", CLIENT.parents[1] / "README.md"]

# What the examples take for granted.
TRAINING = """
import numpy, keras
images, labels = numpy.random.rand(32, 4), numpy.random.randint(0, 2, 32)
held_out = images, labels
model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2, "softmax")])
model.compile("sgd", "sparse_categorical_crossentropy")
"""
LOOP = """
import os
def train_one_epoch(losses=[0.9, 0.5, 0.7]): return losses.pop(0) if losses else 0.8
def write_model(path): open(path, "w").write("weights")
def load_model(path): assert open(path).read() == "weights"
epoch, loss = 0, 0.5
os.makedirs("shards")
write_model("shards/rank-0.safetensors")
"""
# What an example may have from those before it.
EARLIER = {
    "client": "client = keepbest.Client()",
    "rule": 'rule = keepbest.strategy("m.bin", monitor="val_loss", save_best_only=True)',
}


def blocks_of(readme: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", readme.read_text(), re.DOTALL)


def is_program(block: str) -> bool:
    """Whether an example is more than the core of a program in any other language, or two lines about ranks."""
    sets_decision = "decision = run." in block
    return "runs.StartRun(" not in block and (sets_decision or "run.save(decision" not in block)


PROGRAMS = [
    pytest.param(readme, block, id=f"{readme.parent.relative_to(CLIENT.parents[1])}/README.md, {number}")
    for readme in READMES
    for number, block in enumerate(blocks_of(readme, "python"))
    if is_program(block)
]


def test_the_readmes_show_as_many_programs_as_before():
    assert len(PROGRAMS) == 5


@pytest.mark.parametrize(("readme", "block"), PROGRAMS)
def test_a_readmes_example_runs(server, project, tmp_path, readme, block):
    uses_keras = "model.fit(" in block
    unset = [line for name, line in EARLIER.items() if not re.search(rf"\b{name} = ", block)]
    shown = block.replace("http://127.0.0.1:7400", server.address)
    shown = shown.replace("model.fit(...,", "model.fit(images, labels, validation_data=held_out, epochs=2,")
    # A project of its own, so that the examples' runs are new here.
    shown = re.sub(r"\bvision/(mnist|digits)\b", rf"\1/{project.partition('/')[2]}", shown)
    program = tmp_path / "example.py"
    program.write_text("\n".join([TRAINING if uses_keras else LOOP, "import keepbest", *unset, shown]))
    # What the README tells to set is all that is set, besides where the tests' server is.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KERAS_", "KEEPBEST_"))}
    told = "\n".join(blocks_of(CLIENT.parents[1] / "README.md", "bash"))
    environment |= dict(re.findall(r"^export (\w+)=(\S+)", told, re.MULTILINE))
    environment |= {
        "KEEPBEST_ADDRESS": server.address,
        "KERAS_HOME": str(tmp_path / "keras"),
        "PYTHONPATH": str(CLIENT / "src"),
    }
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{readme}:\n{program.read_text()}\n{done.stdout}{done.stderr[-3000:]}"
    assert "Warning" not in done.stderr, done.stderr
