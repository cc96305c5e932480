"""Train a small classifier of handwritten digits. Started again with the same run, it goes on where it was killed."""

import argparse

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keepbest.keras import ModelCheckpoint


def digits() -> list[np.ndarray]:
    """Scans of digits, 8 x 8 pixels each: images for training, images for validation, then their labels likewise."""
    data = load_digits()
    images = (data.data / 16).astype("float32")
    return train_test_split(images, data.target, test_size=0.25, random_state=7, stratify=data.target)


def new_model() -> keras.Model:
    """A small network. Its learning rate is too high on purpose, so that some epochs are worse than the last."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    """Train, and save when the server decides so."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True)
    parser.add_argument("--directory", required=True, help="where checkpoints are saved before they are uploaded")
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()

    keras.utils.set_random_seed(7)
    train_images, valid_images, train_labels, valid_labels = digits()
    checkpoint = ModelCheckpoint(
        f"{arguments.directory}/digits-{{epoch:02d}}-{{val_loss:.2f}}.keras",
        monitor="val_loss",
        verbose=1,
        save_best_only=True,
        project="demo/digits",
        run=arguments.run,
    )

    model = new_model()
    model.fit(
        train_images,
        train_labels,
        validation_data=(valid_images, valid_labels),
        initial_epoch=checkpoint.resume(model),  # 0 at the first start, after a restart behind the newest save
        epochs=arguments.epochs,
        callbacks=[checkpoint],
        verbose=2,
    )


if __name__ == "__main__":
    main()
