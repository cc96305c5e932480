"""Load a pulled model, and check that it is as good as was reported in training."""

import sys

import keras
from train import digits

import keepbest


def main(path: str, version: str) -> None:
    """Exit with an error unless the model has the loss with which its version was saved."""
    _, images, _, labels = digits()
    loss, accuracy = keras.models.load_model(path).evaluate(images, labels, verbose=0)
    reported = keepbest.Client().version(f"demo/digits/{version}").metrics["val_loss"]
    print(f"{accuracy:.1%} of {len(labels)} digits that it was not trained with are right.")
    print(f"Its val_loss is {loss:.6f}; reported in training: {reported:.6f}.")
    if abs(loss - reported) > 1e-4:
        sys.exit("these should be the same")


if __name__ == "__main__":
    main(*sys.argv[1:])
