"""Pure networks; they open no file."""
