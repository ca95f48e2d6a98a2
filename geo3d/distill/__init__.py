"""Vocabulary of distillation and diffusion, on tensors only; README.md tells symbols and files.

Notation: x clean or noisy item, n unit noise, sigma its level (x + sigma n), F the raw network,
D the denoiser made of it by a preconditioning: D(x; sigma) = c_skip x + c_out F(c_in x, c_noise).
"""
