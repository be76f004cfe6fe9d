"""What takes the common address from its holder: seconds without service, and what an open stream sees."""
