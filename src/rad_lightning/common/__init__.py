"""What every room uses: errors, progress, seeds, threads, files."""
