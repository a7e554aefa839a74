"""What a scenario file does when it is run, and what the commands share: options, screen, the run itself."""
