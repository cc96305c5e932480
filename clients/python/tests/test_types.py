"""The types of the client, as a user's type checker sees them."""

from __future__ import annotations

import re
from pathlib import Path

from mypy import api

CLIENT = Path(__file__).resolve().parents[1]

# What the README's examples take for granted.
GIVEN = """
from typing import Any
import keras
def train_one_epoch() -> float: return 0.0
def write_model(path: str) -> None: pass
def load_model(path: str) -> None: pass
model: Any
images: Any
labels: Any
held_out: Any
epoch: int
loss: float
"""

# What an example may have from those before it.
EARLIER = {
    "client": "client = keepbest.Client()",
    "rule": 'rule = keepbest.strategy("m.bin")',
    "run": 'run = client.start_run("vision/mnist")',
    "decision": "decision: keepbest.Decision",
}


def test_the_readmes_examples_pass_the_strict_type_checker(tmp_path):
    for readme in (CLIENT / "README.md", CLIENT.parents[1] / "README.md"):
        blocks = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
        # One shows how little a program without our client needs.
        for number, block in enumerate(block for block in blocks if "keepbest." in block):
            unset = [line for name, line in EARLIER.items() if not re.search(rf"\b{name} = |\bas {name}:", block)]
            source = "\n".join([GIVEN, "import keepbest", *unset, block])
            checked = tmp_path / f"{readme.parent.name}_{number}.py"
            checked.write_text(source)
            config = tmp_path / "mypy.ini"
            config.write_text(
                f"[mypy]\nstrict = true\nmypy_path = {CLIENT / 'src'}\n[mypy-keras.*]\nignore_missing_imports = true\n"
                "follow_imports = skip\n[mypy-google.rpc.*,google_crc32c.*]\nignore_missing_imports = true\n"
                "[mypy-keepbest._proto.*]\nignore_errors = true\n"
            )
            report, errors, code = api.run(["--config-file", str(config), str(checked)])
            assert code == 0, f"{readme}:\n{source}\n{report}{errors}"
        assert number > 0, f"{readme} shows less than before"
