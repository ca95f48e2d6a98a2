"""What every method does alike, once: training, resumable runs of shards and cells, tables,
curves."""
