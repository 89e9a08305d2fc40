"""What `tools.benchmark_meta_batch` is made of."""
