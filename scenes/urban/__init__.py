"""Street scenes from layouts: Urban Architect (layout-guided score distillation)."""
