"""What three or more models share unchanged."""
