"""Pictures of computational graphs: SVG, PNG, PDF and an HTML page."""
