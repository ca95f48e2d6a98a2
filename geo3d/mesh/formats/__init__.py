"""One reader and writer per mesh file format, over bytes; `geo3d.mesh.io` chooses among them."""
