"""Networks by the names that model files give them."""

from __future__ import annotations

import torch

from scenes.objects.models import MODELS, build


def test_elastic_names_are_the_plain_networks() -> None:
    """As upstream trains them (case `elastic`)."""
    args = {
        "resolution": 8,
        "model_channels": 256,
        "latent_channels": 4,
        "num_blocks": 1,
        "num_heads": 4,
    }
    more = {"SLatEncoder": {"in_channels": 12}, "SLatFlowModel": {}}
    for name in [n for n in MODELS if n.startswith("SLat")]:
        own = more.get(name, {"representation_config": {}})
        if name == "SLatFlowModel":
            own = {"in_channels": 4, "out_channels": 4, "cond_channels": 8, "num_blocks": 1}
            own |= {"resolution": 8, "model_channels": 32, "num_heads": 2, "patch_size": 1}
        chosen = own if name == "SLatFlowModel" else {**args, **own}
        torch.manual_seed(0)
        plain = build(name, chosen)
        torch.manual_seed(0)
        elastic = build(f"Elastic{name}", chosen)
        assert type(elastic) is type(plain)
        for (a, x), (b, y) in zip(
            plain.state_dict().items(), elastic.state_dict().items(), strict=True
        ):
            assert a == b and torch.equal(x, y)
