"""What only a container deployment needs. Standard library only."""
