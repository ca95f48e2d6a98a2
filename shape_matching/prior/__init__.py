"""The spectral diffusion prior: data, network, training, zero-shot use."""
