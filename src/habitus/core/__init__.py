"""What every part stands on: errors, strict config, seeds, progress, atomic writes, names."""
