"""Train a small network on scikit-learn's handwritten digits, and report after each epoch."""

import argparse
import json
import os

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

parser = argparse.ArgumentParser()
parser.add_argument("--learning-rate", type=float, default=0.01)
parser.add_argument("--hidden", type=int, default=32)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--epochs", type=int, default=15)
options = parser.parse_args()

images, digits = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(images / 16, digits, test_size=0.3, random_state=0)
network = MLPClassifier((options.hidden,), solver="sgd", learning_rate_init=options.learning_rate, random_state=options.seed)

# nexa_sdk collects what a program appends here: JSON lines, in any language
with open(os.environ.get("NEXA_RESULTS", os.devnull), "a") as results:
    for epoch in range(1, options.epochs + 1):
        network.partial_fit(train_x, train_y, classes=np.unique(digits))
        accuracy = network.score(test_x, test_y)
        print(f"epoch {epoch:2}: loss {network.loss_:.4f}, accuracy {accuracy:.3f}", flush=True)
        print(json.dumps({"epoch": epoch, "loss": network.loss_, "accuracy": accuracy}), file=results, flush=True)
