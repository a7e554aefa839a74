"""Pictures of laws and tracks."""
