"""The search for a map from nothing: starts, scores, refinement."""
