"""Which place of an animal's body a vertex shows, learned from generated creatures."""
