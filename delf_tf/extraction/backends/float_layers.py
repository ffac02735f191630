"""Which layers of a converted network stay in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from delf_tf.artifacts import StrPath

_CONVOLUTIONS = ("Convolution", "GroupConvolution")
# Layers that engines compute together with the convolution before them.
_FUSED = ("Add", "Relu", "Clamp", "Transpose")
_EPILOGUES = (*_CONVOLUTIONS, *_FUSED, "Result")
_CONSTANT = "Constant"
# Layers that find the place of the largest value: rounding would choose among near-equal ones.
_CHOICES = ("TopK",)


def float_layers(model: Any) -> set[str]:
    """Returns the names of the layers that stay in float32.

    They are the pixels and the first convolution, convolutions to one channel, which score
    features, what chooses a keypoint's pixel, and the heads: pooling, attention, normalisation, and
    all that works on pooled vectors (folding.inference_copy says why).

    Args:
      model: openvino.Model.
    """
    layers = [one for one in model.get_ordered_ops() if one.get_type_name() != _CONSTANT]
    before = _ancestors(layers, _CONVOLUTIONS)
    chooses, joined = _ancestors(layers, _CHOICES), _joined_convolutions(layers)
    after: set[str] = set()
    floats: set[str] = set()
    for layer in layers:
        name, kind, sources = layer.get_friendly_name(), layer.get_type_name(), _sources(layer)
        follows = bool(sources & after)
        if kind in _CONVOLUTIONS:
            after.add(name)
            is_first = not follows and name not in joined
            stays = is_first or _num_channels(layer) == 1 or name in chooses
        else:
            is_head = kind not in _EPILOGUES or bool(sources & floats & after)
            stays = not follows or name in chooses or (name not in before and is_head)
        if follows:
            after.add(name)
        if stays:
            floats.add(name)
    return floats


def _num_channels(layer: Any) -> int:
    channels = layer.get_output_partial_shape(0)[1]
    return channels.get_length() if channels.is_static else 0


def _sources(layer: Any) -> set[str]:
    """Returns the names of the layers that a layer's inputs come from."""
    return {one.get_source_output().get_node().get_friendly_name() for one in layer.inputs()}


def _joined_convolutions(layers: list[Any]) -> set[str]:
    """Returns the convolutions whose outcome is added to another map.

    The engine adds it while it convolves, for which both must be of one precision.
    """
    by_name = {layer.get_friendly_name(): layer for layer in layers}

    def maps_of(layer: Any) -> list[Any]:
        return [by_name[source] for source in _sources(layer) if source in by_name]

    found = set()
    for layer in layers:
        maps = maps_of(layer)
        for one in maps if layer.get_type_name() == "Add" and len(maps) > 1 else ():
            source = one
            while source.get_type_name() in _FUSED and len(maps_of(source)) == 1:
                (source,) = maps_of(source)
            found.add(source.get_friendly_name())
    return found


def _ancestors(layers: list[Any], kinds: tuple[str, ...]) -> set[str]:
    """Returns the layers that have a layer of one of the kinds after them."""
    found: set[str] = set()
    for layer in reversed(layers):
        if layer.get_type_name() in kinds or layer.get_friendly_name() in found:
            found.update(_sources(layer))
    return found


def mark(xml_path: StrPath, names: set[str]) -> None:
    """Marks the layers `names` of a network's file, so that the engine keeps them in float32."""
    tree = ElementTree.parse(xml_path)
    for layer in tree.getroot().iter("layer"):
        if layer.get("name") in names:
            info = layer.find("rt_info")
            if info is None:
                info = ElementTree.SubElement(layer, "rt_info")
            ElementTree.SubElement(info, "attribute", {"name": "precise", "version": "0"})
    Path(xml_path).write_bytes(ElementTree.tostring(tree.getroot()))
