"""Training data of image-to-3D: voxels and views of made-up objects, in shards."""
