"""What the command line calls: settings in, files out."""
