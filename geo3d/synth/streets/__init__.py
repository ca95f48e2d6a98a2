"""Made-up streets: their layouts, and the painter that draws any layout."""
