"""Sums over rows, neighbours and pairs that are differentiable as often as wanted, with kernels of their own on CPUs."""
