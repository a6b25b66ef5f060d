"""Checks of a node's inputs that the host leaves out: those of values that come by wire, and of dynamic inputs."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from comfy_api.latest import io

from ...gld_core.autoencoder import Views
from ...gld_core.cameras import Cameras

# Lists of files change, and the nodes find them by themselves.
FILES = ("scene", "path", "model_name")


def checked(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node itself; before it executes, it raises ValueError for a value that its own widgets would not take."""
    execute: Any = node.execute

    @functools.wraps(execute.__func__)
    def execute_checked(cls, **inputs):
        check_inputs(cls.define_schema().inputs, inputs)
        return execute.__func__(cls, **inputs)

    node.execute = classmethod(execute_checked)  # type: ignore[method-assign, assignment]
    return node


def check_inputs(schema: Iterable[io.Input], values: Mapping[str, Any]) -> None:
    """ValueError where a value is outside of its widget's range or is none of its options."""
    for entry in schema:
        value: Any = values.get(entry.id)
        if isinstance(entry, io.DynamicCombo.Input):
            options = {option.key: option.inputs for option in entry.options}
            check_option(entry.id, value, options)
            check_inputs(options[value[entry.id]], value)
        elif value is None and entry.id in values and not entry.optional:
            raise ValueError(f"The input '{entry.id}' is empty; give it a value.")
        elif value is None:
            continue
        elif isinstance(entry, io.Int.Input | io.Float.Input):
            check_number(entry, value)
        elif not any(KINDS.get(kind, anything)(value) for kind in entry.get_io_type().split(",")):
            wanted = entry.get_io_type().replace(",", " or ")
            raise ValueError(
                f"The input '{entry.id}' is {described(value)}, which is no {wanted}; connect the output that it is "
                "meant for."
            )
        elif isinstance(entry, io.Combo.Input) and entry.id not in FILES and value not in entry.options:
            raise ValueError(f"The input '{entry.id}' is {repr(value)[:60]}; give one of the options in its list.")


def anything(value: Any) -> bool:
    return True


def is_image(value: Any) -> bool:
    """(N, H, W, C) with at least one picture in colour."""
    return torch.is_tensor(value) and value.ndim == 4 and value.shape[-1] >= 3 and value.numel() > 0


# Whether a value can be what a socket carries: outputs of any type, as switches of other packs have, are not compared
# by the host.
KINDS: dict[str, Callable[[Any], bool]] = {
    "STRING": lambda value: isinstance(value, str),
    "BOOLEAN": lambda value: isinstance(value, bool),
    "IMAGE": is_image,
    "LATENT": lambda value: isinstance(value, Mapping) and torch.is_tensor(value.get("samples")),
    "MODEL": lambda value: hasattr(value, "model"),
    **dict.fromkeys(("DA3_GEOMETRY", "MOGE_GEOMETRY", "LOAD3D_CAMERA"), lambda value: isinstance(value, Mapping)),
    "GLD_BACKBONE": lambda value: hasattr(value, "autoencoder"),
    "GLD_CAMERAS": lambda value: isinstance(value, Cameras),
    "GLD_VIEWS": lambda value: isinstance(value, Views),
}


def described(value: Any) -> str:
    """In a few words, for a message."""
    if torch.is_tensor(value):
        return f"a tensor of shape {tuple(value.shape)}"
    return repr(value)[:60] if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"


def check_number(entry: io.Int.Input | io.Float.Input, value: Any) -> None:
    low, high = entry.min, entry.max
    whole = isinstance(entry, io.Int.Input)
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"The input '{entry.id}' is {repr(value)[:60]}; give {kind} from {low} to {high}.")


def check_option(name: str, value: Any, options: Iterable[str]) -> None:
    """ValueError where a DynamicCombo input has none of its options, which the host leaves out, or comes by wire."""
    if not isinstance(value, Mapping) or value[name] not in options:
        raise ValueError(f"The input '{name}' needs one of its options; choose {', '.join(options)} in the node.")


def check_choice(node: type[io.ComfyNode], name: str, value: Any) -> None:
    """`check_option` for the DynamicCombo input of that name, before anything has run."""
    (entry,) = (entry for entry in node.define_schema().inputs if entry.id == name)
    check_option(name, value, [option.key for option in entry.options])


def problem(check: Callable, *values: Any) -> bool | str:
    """What `validate_inputs` returns: True, or the sentence that check(*values) raises. What is raised in there itself
    is reported at the nodes behind.
    """
    try:
        check(*values)
    except ValueError as error:
        return str(error)
    return True
