"""What `geo3d bench` measures, one module per subject."""
