"""The state of a Keras 3 model as tensors: of the same things, under the same names, as in Keras' `.weights.h5`.

That is each layer's variables (`layers/dense/vars/0`), whatever a layer saves of its own, and the optimizer's variables
(`optimizer/vars/0`). Names come from where a layer stands in its model, not from what it is called, so a model that is
built again has the same ones. Neither the architecture nor files of assets (vocabularies) are among it.
"""

from __future__ import annotations

import weakref
from typing import Any

import keras
from keras.src.saving import saving_lib

_VARIABLES = "vars"
_OPTIMIZER = "optimizer"
# By model, the variables that it had, and what was found to save: Keras takes about a millisecond a layer to find it.
_FOUND: weakref.WeakKeyDictionary[Any, tuple[list[Any], dict[str, Any]]] = weakref.WeakKeyDictionary()


class _Store(saving_lib.NpzIOStore):  # type: ignore[misc]
    """In the place of Keras' files: it only takes its own kinds of store."""

    def __init__(self, entries: dict[str, dict[str, Any]]) -> None:
        """Take what there is: by the path in the model, name to value."""
        self.contents = entries

    def make(self, path: str, metadata: Any = None) -> dict[str, Any]:
        """Where a part of the model puts its variables."""
        return self.contents.setdefault(path or "", {})

    def get(self, path: str) -> dict[str, Any]:
        """What a part of the model had put there."""
        return self.contents.get(path or "", {})

    def has_path(self, path: str) -> bool:
        """Whether there is anything below a path."""
        return any(f"{known}/".startswith(f"{path}/") for known in self.contents)

    def close(self) -> None:
        """Nothing is open."""


def tensors_of_model(model: Any) -> dict[str, Any]:
    """Name to tensor of the backend. Nothing is copied, but what a layer of one's own computes to save it.

    Raises:
        ValueError: the model has no variables yet.
    """
    if not model.built:
        raise ValueError("the model is not built yet, so it has no weights to save: call it once, or its `build`")
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *([] if optimizer is None else optimizer.variables)]
    before, found = _FOUND.get(model, ([], {}))
    if len(before) != len(variables) or any(one is not other for one, other in zip(before, variables, strict=True)):
        found = _walked(model, optimizer)
        if _is_plain(model, found):
            _FOUND[model] = variables, found
        else:
            _FOUND.pop(model, None)
    return {name: _value(it) for name, it in found.items()}


def _walked(model: Any, optimizer: Any) -> dict[str, Any]:
    """What Keras finds to save, by its name."""
    store, seen = _Store({}), set()
    if optimizer is not None and type(optimizer).save_own_variables is keras.optimizers.Optimizer.save_own_variables:
        # It would copy each variable.
        store.make(_OPTIMIZER).update({str(number): it for number, it in enumerate(optimizer.variables)})
        seen.add(id(optimizer))
    saving_lib._save_state(model, store, None, "", seen)
    return {
        f"{path}/{_VARIABLES}/{name}".lstrip("/"): it
        for path, entry in store.contents.items()
        for name, it in entry.items()
    }


def _is_plain(model: Any, found: dict[str, Any]) -> bool:
    """Whether the same will be found as long as the model has the same variables: no layer has code of its own."""
    layers = model._flatten_layers()
    return all(isinstance(it, keras.Variable) for it in found.values()) and all(
        type(layer).save_own_variables.__module__.startswith("keras.") for layer in layers
    )


def load_into_model(model: Any, tensors: dict[str, Any]) -> None:
    """Give a model, and its optimizer if it is compiled, what `tensors_of_model` gave.

    Raises:
        ValueError: the model is another one: it has other layers, or variables of other shapes.
    """
    if not model.built:
        raise ValueError("the model is not built yet, so it takes no weights: call it once, or its `build`")
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:  # else its state would be passed over
        optimizer.build(model.trainable_variables)
    entries: dict[str, dict[str, Any]] = {}
    for whole, value in tensors.items():
        path, _, name = whole.rpartition("/")
        entries.setdefault(path.removesuffix(_VARIABLES).removesuffix("/"), {})[name] = value
    saving_lib._load_state(model, _Store(entries), None, "", False, set())


def _value(saved: Any) -> Any:
    if isinstance(saved, keras.Variable):
        return saved.value
    return saved if hasattr(saved, "dtype") else keras.ops.convert_to_numpy(saved)


__all__ = ["load_into_model", "tensors_of_model"]
