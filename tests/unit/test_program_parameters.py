"""Parameters of programs, read from their source."""

from __future__ import annotations

from pathlib import Path

from nexa_sdk.program_parameters import ProgramParameter, program_of, read_parameters


def read(source: str) -> dict[str, ProgramParameter]:
    path = Path("train.py")
    path.write_text(source)
    return {found.name: found for found in read_parameters(path)}


def test_argparse():
    found = read("""
import argparse
raise SystemExit("nothing of it is executed")
parser = argparse.ArgumentParser()
group = parser.add_argument_group()
parser.add_argument("data")
parser.add_argument("--lr", "-l", type=float, default=1e-3, help="learning rate")
group.add_argument("--opt", choices=["adam", "sgd"], default="adam")
parser.add_argument("--amp", action="store_true")
parser.add_argument("--seed", type=int)
parser.add_argument("--depth", default=compute())
parser.add_argument("--version", action="version")
""")
    assert list(found) == ["lr", "opt", "amp", "seed", "depth"]
    assert found["lr"] == ProgramParameter("lr", 1e-3, "float", (), "learning rate")
    assert found["opt"].choices == ("adam", "sgd")
    assert (found["amp"].kind, found["amp"].default) == ("bool", False)
    assert (found["seed"].kind, found["seed"].default) == ("int", None)
    assert found["depth"].default is None


def test_click_and_typer():
    found = read("""
import click, typer
@click.command()
@click.option("--batch-size", type=int, default=32, help="how many")
@click.option("--shout/--no-shout", default=False)
def main(batch_size, shout): ...
app = typer.Typer()
@app.command()
def train(data: str, lr: float = 1e-3, n_layers: int = typer.Option(2, help="layers"), *, flag: bool = False): ...
def other(x: int = 1): ...
""")
    assert list(found) == ["batch-size", "shout", "lr", "n-layers", "flag"]
    assert found["n-layers"] == ProgramParameter("n-layers", 2, "int", (), "layers")
    assert found["batch-size"].default == 32


def test_hydra():
    Path("conf").mkdir()
    Path("conf/config.yaml").write_text("defaults: [a]\noptim: {lr: 0.1, betas: [1, 2]}\nseed: 1\n")
    found = read("""
import hydra
@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg): ...
""")
    assert {name: (one.default, one.style) for name, one in found.items()} == {"optim.lr": (0.1, "hydra"), "seed": (1, "hydra")}


def test_what_cannot_be_read_has_none():
    assert read("def (") == {}
    assert read("\0") == {}
    assert read_parameters(Path("missing.py")) == []


def test_the_program_of_a_command():
    Path("my train.py").write_text("")
    assert program_of("python 'my train.py' --x 1") == Path("my train.py")
    assert program_of("python 'my") is None
    assert program_of("python -m pkg") is None
