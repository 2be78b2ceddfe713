"""Networks of public libraries that training never imports, and what a generator predicts for them."""
