"""One HTML file with a network, test images and all that is needed to watch it settle.

It needs no server and loads nothing: the dynamics (``engine.js``), what a person sees
(``explorer.js``), the plots (uPlot, MIT licence) and the numbers are in it.
"""

import json
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from torch import Tensor

from eqprop.core.costs import Cost
from eqprop.explorer.description import Arrays, described_network
from eqprop.networks.layered import LayeredNetwork

__all__ = ["explorer_page"]


def explorer_page(
    network: LayeredNetwork,
    images: Tensor,
    labels: Sequence[int],
    *,
    classes: Sequence[str],
    cost: Cost,
    free_steps: int,
    nudged_steps: int,
    beta: float,
    title: str = "A network that settles",
    subtitle: str = "",
) -> str:
    """The page, as HTML.

    Args:
        network: prototypical or real-time, of dense and convolutional connections, tied or not.
        images: as the network takes them, (B, C, H, W), or (B, features), which are shown as a
            line of pixels.
        labels: the class of each.
        classes: what the classes are called.
        cost: ℓ, from which the nudge comes.
        free_steps, nudged_steps, beta: T, K and β to begin with.
        title, subtitle: above everything.

    Raises:
        Failure: a network that the page cannot compute.
    """
    arrays = Arrays()
    shape = images.shape[1:] if images.dim() == 4 else (1, 1, images[0].numel())
    low, high = min(0.0, float(images.min())), max(1.0, float(images.max()))
    data = {
        "network": described_network(network, cost, arrays),
        "image": list(shape),
        "range": [low, high],
        # Where inputs are grey levels from 0 to 1, one can draw some.
        "drawable": shape[0] == 1 and shape[1] > 1 and (low, high) == (0.0, 1.0),
        "samples": {"images": arrays.add(images), "labels": list(labels)},
        "classes": list(classes),
        "T": free_steps,
        "K": nudged_steps,
        "beta": beta,
    }
    data["arrays"] = arrays.text()
    parts: dict[str, str] = {"title": escape(title), "subtitle": escape(subtitle)}
    # Nothing within may end the element that holds it.
    parts["data"] = json.dumps(data).replace("<", "\\u003c")
    parts |= {
        name: _read(name)
        for name in ("uPlot.css", "explorer.css", "uPlot.js", "engine.js", "explorer.js")
    }
    return re.sub(r"\{\{([\w.]+)\}\}", lambda found: parts[found[1]], _read("page.html"))


def _read(name: str) -> Any:
    return files("eqprop.explorer").joinpath("page", name).read_text(encoding="utf-8")
