"""What all packages use: errors, progress, seeds, threads, files."""
