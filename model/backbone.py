"""The backbone as torch knows it: built, filled with weights, frozen, and exported to ONNX.

This is the only module that imports torch and timm, which cost two seconds and 300 MB, and an export as much again.
`model.encoder` therefore runs it as a program of its own (``python -m model.backbone``) and keeps the file that comes
out; only the torch runtime loads it into the process that encodes.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from model._torchvision import declare_missing_operators
from model.transform import Transform

import torch  # isort: skip

declare_missing_operators()

import timm  # noqa: E402
from timm.data import resolve_data_config  # noqa: E402
from timm.models import load_state_dict  # noqa: E402


class BackboneError(Exception):
    """A backbone can't be built; the message says why and what to do."""


class Network(torch.nn.Module):
    """A frozen backbone that takes pixels as `model.transform.prepare` gives them: uint8, (n, height, width, 3)."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: torch.nn.Module, transform: Transform) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", 255 * torch.tensor(transform.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(transform.std).view(1, 3, 1, 1), persistent=False)
        self.eval()
        self.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features, float32 of shape (n, d)."""
        features: torch.Tensor = self.backbone((images.permute(0, 3, 1, 2).float() - self.mean) / self.std)
        return features


@dataclass(frozen=True)
class Backbone:
    """A network with what its features are called after.

    Attributes
    ----------
    network : Network
        Ready to run.
    weights_hash : str
        Hexadecimal digest of the weights.
    transform : Transform
        How the network wants its images.
    dim : int
        Length of a feature vector.
    """

    network: Network
    weights_hash: str
    transform: Transform
    dim: int


def build(name: str, weights: Path | None) -> Backbone:
    """Build a timm model without its classifier, fill it with weights, freeze it.

    Parameters
    ----------
    name : str
        A model of timm, with or without a tag (``resnet18.a1_in1k``).
    weights : pathlib.Path or None
        File with the weights, safetensors or torch's own; nothing but tensors is unpickled. None for timm's hub.

    Raises
    ------
    BackboneError
        When timm has no such model, the weights don't fit it or can't be had, or it doesn't give one vector per image.
    """
    backbone = _from_hub(name) if weights is None else _from_file(name, weights)
    try:
        transform = Transform.from_dict(resolve_data_config({}, model=backbone))
    except ValueError as error:
        raise BackboneError(f"The images that {name} wants can't be made: {error}") from error
    network = Network(backbone, transform)
    with torch.inference_mode():
        features = network(torch.zeros(1, transform.height, transform.width, 3, dtype=torch.uint8))
    if features.ndim != 2:
        raise BackboneError(f"{name} gives features of shape {tuple(features.shape)}, not one vector per image.")
    weights_hash = _state_hash(backbone.state_dict()) if weights is None else file_hash(weights)
    return Backbone(network, weights_hash, transform, features.shape[1])


def export(backbone: Backbone, path: Path) -> None:
    """Write the network to an ONNX file that takes any number of images.

    Parameters
    ----------
    backbone : Backbone
        Its network stays as it is.
    path : pathlib.Path
        File to write; input ``images``, output ``features``.
    """
    images = torch.zeros(2, backbone.transform.height, backbone.transform.width, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter about itself
        torch.onnx.export(
            backbone.network,
            (images,),
            path,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["images"],
            output_names=["features"],
            external_data=False,
            verbose=False,
        )


def file_hash(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rename_reference_keys(weights: Mapping[str, torch.Tensor], repeats: Sequence[int]) -> dict[str, torch.Tensor]:
    """Name EfficientNet-Lite weights of the package ``efficientnet-lite-pytorch`` as timm does.

    The reference numbers its blocks through and names layers by what they do; timm numbers them by stage, and counts
    the normalisations of a block from its first layer, which blocks without expansion (the first stage's) don't have.

    Parameters
    ----------
    weights : mapping of str to torch.Tensor
        The reference's state.
    repeats : sequence of int
        Number of blocks in each of timm's stages.
    """
    places = [f"blocks.{stage}.{block}" for stage, blocks in enumerate(repeats) for block in range(blocks)]
    expanded = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"} | {
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}

    def rename(key: str) -> str:
        match key.split("."):
            case ["_blocks", number, layer, kind]:
                layers = expanded if f"_blocks.{number}._expand_conv.weight" in weights else plain
                return f"{places[int(number)]}.{layers[layer]}.{kind}"
            case [layer, kind]:
                return f"{outside[layer]}.{kind}"
        raise KeyError(key)

    return {rename(key): tensor for key, tensor in weights.items()}


def _from_hub(name: str) -> torch.nn.Module:
    try:
        return _create(name, pretrained=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise BackboneError(
            f"The weights of {name} can't be had from timm's hub ({_first_line(error)}). "
            "Without a network, give a file of weights."
        ) from error


def _from_file(name: str, path: Path) -> torch.nn.Module:
    try:
        weights = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen kinds for what is no file of weights
        raise BackboneError(f"{path} can't be read as a file of weights: {_first_line(error)}") from error
    try:
        empty = _create(name, pretrained=False)
        if "_conv_stem.weight" in weights:
            weights = rename_reference_keys(weights, _blocks_per_stage(empty))
        # timm only insists on every key where it thinks that the classifier is wanted as it is in the file.
        classes = _classes_in(weights, cast("dict[str, object]", empty.pretrained_cfg))
        overlay = {"state_dict": weights, "num_classes": classes, "label_offset": 0}
        model = _create(name, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay)
        cast(Callable[[int], None], model.reset_classifier)(0)
        return model
    except (RuntimeError, KeyError, IndexError, AttributeError) as error:
        raise BackboneError(f"The weights in {path} are not those of {name}: {_first_line(error)}") from error


def _classes_in(weights: Mapping[str, torch.Tensor], config: Mapping[str, object]) -> int:
    """Count the classes of the classifier that a file of weights holds; 0 where it holds none."""
    names = config.get("classifier")
    name = names[0] if isinstance(names, tuple | list) else names
    classifier = weights.get(f"{name}.weight")
    return 0 if classifier is None else len(classifier)


def _blocks_per_stage(model: torch.nn.Module) -> list[int]:
    return [len(cast(torch.nn.Sequential, stage)) for stage in cast(torch.nn.Sequential, model.blocks)]


def _create(name: str, *, num_classes: int = 0, **options: object) -> torch.nn.Module:
    # "hf-hub:" and "local-dir:" names are not in timm's list.
    if ":" not in name and not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3))
        raise BackboneError(f"timm has no model {name!r}." + (f" Near to it: {near}." if near else ""))
    model: torch.nn.Module = timm.create_model(name, num_classes=num_classes, **options)
    return model


def _state_hash(state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(state.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return next(iter(re.split(r"[\r\n]", str(error).strip())), "") or type(error).__name__


def main(arguments: Sequence[str] | None = None) -> None:
    """Export a backbone and describe it beside, as `model.encoder` asks for it in a process of its own."""
    parser = argparse.ArgumentParser(description="Export a frozen backbone to ONNX.")
    parser.add_argument("name")
    parser.add_argument("card", type=Path)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args(arguments)

    from model.encoder import UNSOUND, Card, write_atomically

    try:
        backbone = build(options.name, options.weights)
    except BackboneError as error:
        print(error, file=sys.stderr)
        sys.exit(UNSOUND)
    card = Card.of(options.name, backbone.weights_hash, backbone.transform, backbone.dim)
    network: Path = options.card.with_name(f"{card.id}.onnx")
    write_atomically(network, lambda path: export(backbone, path))
    card = card.with_network_hash(file_hash(network))
    write_atomically(options.card, lambda path: path.write_text(card.to_json()))


if __name__ == "__main__":
    main()
